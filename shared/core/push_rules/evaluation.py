"""The outcome of an event for one user, and for a group: all users whose rules mean the same in a room.

Some rules are no part of a group's shared rules: rules that matter only if an index names the user (keywords, senders,
the user's own name and id), and rules about other rooms. The rest is put into one form, so that rule sets of the same
meaning are equal. It leaves out rules that can never be reached, and final rules that do not notify.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from weakref import WeakValueDictionary

from shared.core.identifiers import RoomId
from shared.core.push_rules.budget import UNCOUNTED_STEPS
from shared.core.push_rules.changes import NO_CHANGES, RuleChanges, changes_from_json, shown_kinds
from shared.core.push_rules.compiled_rule import (
    DISPLAY_NAME,
    NAMED,
    SENDER_ID,
    USER_NAME,
    WORD,
    CompiledRule,
    OwnRules,
    RoomTest,
    compile_rules,
    room_of_rule,
)
from shared.core.push_rules.conditions import GROUP_MEMBER, Recipient
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.patterns import literal_key
from shared.core.push_rules.push_event import PushEvent

_RULES_BYTES = 1_500
_RULE_BYTES = 500
_TEST_BYTES = 500
_ROOM_TEST_BYTES = 100
_PLACE_BYTES = 8
_ROOM_RULES_BYTES = 500

#: The group of users whose rules mean the same in a room as the default rules.
DEFAULT_GROUP: Final = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """The outcome of an event for one user.

    notifies, highlights: 0 or 1; highlights only with notifies.
    actions: those of the rule that matched.
    """

    notifies: int
    highlights: int
    actions: Sequence[Any]


NO_PUSH: Final = Outcome(0, 0, ())


@dataclass(frozen=True, slots=True)
class Triggers:
    """The features of an event that require individual evaluation for a user.

    words: keys as in `PushEvent.word_keys`.
    senders: keys as in `PushEvent.sender_key`.
    The users in `PushEvent.named_users` are always evaluated individually.
    """

    words: frozenset[str]
    senders: frozenset[str]


NO_TRIGGERS: Final = Triggers(frozenset(), frozenset())


class UserRules:
    """A user's rules, compiled. All users without changes share one object.

    former: the user's rules before a change. What they have in common is not compiled again.
    """

    __slots__ = ("_everywhere", "_in_room", "_in_rooms", "_own", "_rules", "_some_rooms", "size_bytes", "switches")

    switches: RuleSwitches
    _own: OwnRules

    def __init__(self, changes: RuleChanges, switches: RuleSwitches, former: "UserRules | None" = None) -> None:
        reusable = former._own if former is not None and former.switches == switches else {}
        self._rules, self._own = compile_rules(changes, switches, reusable)
        self.switches = switches
        #: The places of the rules about one room, and of those about some rooms.
        self._in_room: dict[RoomId, list[int]] = {}
        self._some_rooms: list[int] = []
        for place, rule in enumerate(self._rules):
            if rule.room_id is not None:
                self._in_room.setdefault(rule.room_id, []).append(place)
            elif rule.room_tests:
                self._some_rooms.append(place)
        self._in_rooms: WeakValueDictionary[tuple[int, ...], RoomRules] = WeakValueDictionary()
        self._everywhere: RoomRules | None = None  # kept: most rooms use it
        #: About how much memory this takes, with what most rooms use.
        self.size_bytes = _RULES_BYTES + 3 * _PLACE_BYTES * len(self._rules) + sum(map(_size_bytes, self._own.items()))

    @property
    def is_own(self) -> bool:
        """True if the user has rules of their own. Their steps are counted."""
        return bool(self._own)

    def evaluate(self, event: PushEvent, recipient: Recipient) -> Outcome:
        """Return the outcome of the event for this user. A user's own events have none."""
        return self.in_room(event.room_id).evaluate(event, recipient)

    def in_room(self, room_id: RoomId) -> "RoomRules":
        """Return the rules in a room. Rooms in which the same rules can match share one object."""
        special = self._some_rooms
        if room_id in self._in_room:
            special = sorted(special + self._in_room[room_id])
        here = tuple(place for place in special if _holds(self._rules[place].room_tests, room_id)) if special else ()
        if here:
            rules = self._in_rooms.get(here)
            if rules is None:
                rules = self._in_rooms[here] = RoomRules(self._reachable(here), self, in_most_rooms=False)
            return rules
        if self._everywhere is None:
            self._everywhere = RoomRules(self.everywhere(), self, in_most_rooms=True)
        return self._everywhere

    def everywhere(self) -> list[CompiledRule]:
        """Return the rules that can decide in a room that none is about."""
        return self._reachable(())

    def _reachable(self, here: tuple[int, ...]) -> list[CompiledRule]:
        """Return the rules that can decide in a room, in their order. here: those about some rooms that hold there."""
        reachable = []
        for place, rule in enumerate(self._rules):
            if not rule.room_tests or place in here:
                reachable.append(rule)
                if not rule.tests:
                    break
        return reachable


class RoomRules:
    """A user's rules in a room, or in all rooms where the same of them can match.

    counted: True if the user has rules of their own, whose steps are counted.
    shared: what a group shares.
    size_in_room_bytes: about how much memory this takes in a room. 0 for what most rooms of the user share.
    has_triggers: True if `triggers` may return any.
    uses_display_name: True if the triggers depend on the user's display name in the room.
    """

    __slots__ = (
        "__weakref__",
        "_rules",
        "counted",
        "has_triggers",
        "shared",
        "size_in_room_bytes",
        "uses_display_name",
    )

    def __init__(self, rules: Sequence[CompiledRule], owner: UserRules, *, in_most_rooms: bool) -> None:
        self._rules = tuple(rules)
        self.counted = owner.is_own
        kinds = {rule.trigger.kind for rule in rules if rule.trigger is not None}
        self.has_triggers = not kinds <= {NAMED}
        self.uses_display_name = DISPLAY_NAME in kinds
        self.shared = _shared(self._rules, owner.switches)
        self.size_in_room_bytes = 0 if in_most_rooms else _ROOM_RULES_BYTES + 2 * _PLACE_BYTES * len(self._rules)

    def evaluate(self, event: PushEvent, recipient: Recipient) -> Outcome:
        """Return the outcome of the event, in one of these rooms, for this user. A user's own events have none."""
        if event.sender == recipient.user_id:
            return NO_PUSH
        first = _first_counted if self.counted else _first
        rule = first(self._rules, event, recipient)
        return NO_PUSH if rule is None else Outcome(*rule.outcome, rule.actions)

    def triggers(self, recipient: Recipient) -> Triggers:
        """Return the triggers of individual evaluation for this user.

        A new display name needs new triggers if `uses_display_name`.
        """
        if not self.has_triggers:
            return NO_TRIGGERS
        words, senders = set(), set()
        for rule in self._rules:
            if rule.trigger is None:
                continue
            if rule.trigger.kind == WORD:
                words.add(rule.trigger.key)
            elif rule.trigger.kind == SENDER_ID:
                senders.add(rule.trigger.key)
            elif rule.trigger.kind == DISPLAY_NAME and (key := literal_key(recipient.display_name)) is not None:
                words.add(key)
            elif rule.trigger.kind == USER_NAME:
                localpart = recipient.user_id.removeprefix("@").partition(":")[0]
                if (key := literal_key(localpart)) is not None:
                    words.add(key)
        return Triggers(frozenset(words), frozenset(senders))


class SharedRules:
    """The rules that a group shares in a room, without those that an index names. Equal rules are one object.

    group: an int64; DEFAULT_GROUP for the default rules.
    counted: True if the group has a share of the steps: its own rules search texts, or are many.
    """

    __slots__ = ("__weakref__", "_rules", "counted", "group")

    def __init__(self, rules: Sequence[CompiledRule], group: int) -> None:
        self._rules = tuple(rules)
        self.group = group
        self.counted = any(rule.searches for rule in rules) or sum(rule.steps for rule in rules) > UNCOUNTED_STEPS

    def evaluate(self, event: PushEvent) -> tuple[int, int]:
        """Return (notifies, highlights), 0 or 1 each, for a member of the group without individual evaluation."""
        rule = (_first_counted if self.counted else _first)(self._rules, event, GROUP_MEMBER)
        return (0, 0) if rule is None else rule.outcome


def _first(rules: Iterable[CompiledRule], event: PushEvent, recipient: Recipient) -> CompiledRule | None:
    """Return the first rule that matches."""
    for rule in rules:
        for test in rule.tests:
            if not test(event, recipient):
                break
        else:
            return rule
    return None


def _first_counted(rules: Iterable[CompiledRule], event: PushEvent, recipient: Recipient) -> CompiledRule | None:
    """Return the first rule that matches. The user's own rules match only as long as steps are left."""
    event.steps_left = event.allowed_steps
    for rule in rules:
        if rule.steps and not event.spend(rule.steps):
            continue
        for test in rule.tests:
            if not test(event, recipient):
                break
        else:
            return rule
    return None


def _size_bytes(own: tuple[bytes, CompiledRule | None]) -> int:
    json, rule = own
    if rule is None:
        return _RULE_BYTES // 4 + len(json)
    tests = _TEST_BYTES * len(rule.tests) + _ROOM_TEST_BYTES * len(rule.room_tests)
    return _RULE_BYTES + tests + 3 * len(json)


def _holds(room_tests: Sequence[RoomTest], room_id: RoomId) -> bool:
    for test in room_tests:  # noqa: SIM110  half the cost of all()
        if not test(room_id):
            return False
    return True


def user_rules(json: bytes, switches: RuleSwitches = ALL_OFF, former: UserRules | None = None) -> UserRules:
    """Return a user's rules. json: as stored in `push_rules.rules`; b"" for the default rules, one object for all."""
    return UserRules(changes_from_json(json), switches, former) if json else _DEFAULTS[switches]


def shared_rules(rules: UserRules, room_id: RoomId) -> SharedRules:
    """Return the part of these rules that a group shares in a room. It is the same object for the same meaning."""
    return rules.in_room(room_id).shared


def group_of(rules: UserRules, room_id: RoomId) -> int:
    """Return the group, an int64, of a user with these rules in a room."""
    return shared_rules(rules, room_id).group


def individual_triggers(rules: UserRules, room_id: RoomId, recipient: Recipient) -> Triggers:
    """Return the triggers of individual evaluation for this user in a room."""
    return rules.in_room(room_id).triggers(recipient)


def affected_rooms(changes: RuleChanges, switches: RuleSwitches) -> tuple[bool, frozenset[RoomId]]:
    """Return whether these changes may matter in any room, and the rooms in which some matter: `push_rules.rooms`."""
    own = [(kind, rule) for kind in shown_kinds(switches) for rule in changes.of_kind(kind) if rule.enabled]
    rooms = {room_of_rule(kind, rule.shown()) for kind, rule in own}
    everywhere = bool(changes.defaults) or None in rooms
    return everywhere, frozenset(room_id for room_id in rooms if room_id is not None)


def _shared(rules: Sequence[CompiledRule], switches: RuleSwitches) -> SharedRules:
    kept = _kept(rules)
    identity = _identity(kept)
    if identity == _DEFAULT_IDENTITIES[switches]:
        return _DEFAULTS_SHARED[switches]
    digest = hashlib.sha256(identity).digest()
    shared = _SHARED.get(digest)
    if shared is None:
        shared = _SHARED[digest] = SharedRules(kept, int.from_bytes(digest[:8], signed=True))
    return shared


def _kept(rules: Sequence[CompiledRule]) -> list[CompiledRule]:
    kept = [rule for rule in rules if rule.trigger is None]
    while kept and not kept[-1].outcome[0]:
        kept.pop()
    return kept


def _identity(rules: Sequence[CompiledRule]) -> bytes:
    return b"[" + b",".join([rule.identity for rule in rules]) + b"]"


_DEFAULTS: Final = {
    switches: UserRules(NO_CHANGES, switches)
    for switches in (RuleSwitches(*states) for states in product((False, True), repeat=3))
}
_DEFAULTS_SHARED: Final = {
    switches: SharedRules(_kept(rules.everywhere()), DEFAULT_GROUP) for switches, rules in _DEFAULTS.items()
}
_DEFAULT_IDENTITIES: Final = {switches: _identity(_kept(rules.everywhere())) for switches, rules in _DEFAULTS.items()}
_SHARED: Final[WeakValueDictionary[bytes, SharedRules]] = WeakValueDictionary()
