"""The outcome of an event for one user, and for a group: all users whose rules mean the same in a room.

Some rules are no part of a group's shared rules: rules that matter only if an index names the user (keywords, senders,
the user's own name and id), and rules about other rooms. The rest is put into one form, so that rule sets of the same
meaning are equal. It leaves out rules that can never be reached, and final rules that do not notify.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from weakref import WeakValueDictionary

import orjson

from shared.core.identifiers import RoomId
from shared.core.push_rules.changes import NO_CHANGES, RuleChanges, changes_from_json
from shared.core.push_rules.compiled_rule import (
    DISPLAY_NAME,
    NAMED,
    SENDER_ID,
    USER_NAME,
    WORD,
    CompiledRule,
    RoomTest,
    compile_rule,
    compile_rules,
)
from shared.core.push_rules.conditions import GROUP_MEMBER, Recipient, Test
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.patterns import literal_key
from shared.core.push_rules.push_event import PushEvent

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
    """A user's rules, compiled. All users without changes share one object."""

    __slots__ = ("_rules", "has_triggers", "switches", "uses_display_name")

    def __init__(self, changes: RuleChanges, switches: RuleSwitches) -> None:
        self._rules = compile_rules(changes, switches)
        self.switches = switches
        kinds = {rule.trigger.kind for rule in self._rules if rule.trigger is not None}
        #: True if `individual_triggers` may return any, in any room.
        self.has_triggers = not kinds <= {NAMED}
        #: True if the triggers depend on the user's display name in the room.
        self.uses_display_name = DISPLAY_NAME in kinds

    def evaluate(self, event: PushEvent, recipient: Recipient) -> Outcome:
        """Return the outcome of the event for this user. A user's own events have none."""
        if event.sender == recipient.user_id:
            return NO_PUSH
        for rule in self._rules:
            if _holds(rule.room_tests, event.room_id) and _matches(rule.tests, event, recipient):
                return Outcome(rule.notifies, rule.highlights, rule.actions)
        return NO_PUSH

    def reachable_in(self, room_id: RoomId) -> list[CompiledRule]:
        """Return the rules that can decide in a room, in their order."""
        reachable = []
        for rule in self._rules:
            if _holds(rule.room_tests, room_id):
                reachable.append(rule)
                if not rule.tests:
                    break
        return reachable


class SharedRules:
    """The rules that a group shares in a room, without those that an index names. Equal rules are one object.

    group: an int64; DEFAULT_GROUP for the default rules.
    """

    __slots__ = ("__weakref__", "_rules", "group")

    def __init__(self, rules: Sequence[CompiledRule], group: int) -> None:
        self._rules = tuple((rule.tests, (rule.notifies, rule.highlights)) for rule in rules)
        self.group = group

    def evaluate(self, event: PushEvent) -> tuple[int, int]:
        """Return (notifies, highlights), 0 or 1 each, for a member of the group without individual evaluation."""
        for tests, outcome in self._rules:
            if _matches(tests, event, GROUP_MEMBER):
                return outcome
        return 0, 0


def _holds(room_tests: Sequence[RoomTest], room_id: RoomId) -> bool:
    for test in room_tests:  # noqa: SIM110  half the cost of all()
        if not test(room_id):
            return False
    return True


def _matches(tests: Sequence[Test], event: PushEvent, recipient: Recipient) -> bool:
    for test in tests:  # noqa: SIM110  half the cost of all()
        if not test(event, recipient):
            return False
    return True


def user_rules(json: bytes, switches: RuleSwitches = ALL_OFF) -> UserRules:
    """Return a user's rules. json: as stored in `push_rules.rules`; b"" for the default rules, one object for all."""
    return UserRules(changes_from_json(json), switches) if json else _DEFAULTS[switches]


def shared_rules(rules: UserRules, room_id: RoomId) -> SharedRules:
    """Return the part of these rules that a group shares in a room. It is the same object for the same meaning."""
    if rules is _DEFAULTS[rules.switches]:
        return _DEFAULTS_SHARED[rules.switches]
    kept = _shared_rules(rules, room_id)
    identity = _identity(kept)
    if identity == _DEFAULT_IDENTITIES[rules.switches]:
        return _DEFAULTS_SHARED[rules.switches]
    shared = _SHARED.get(identity)
    if shared is None:
        group = int.from_bytes(hashlib.sha256(identity).digest()[:8], signed=True)
        shared = _SHARED[identity] = SharedRules(kept, group)
    return shared


def group_of(rules: UserRules, room_id: RoomId) -> int:
    """Return the group, an int64, of a user with these rules in a room."""
    return shared_rules(rules, room_id).group


def individual_triggers(rules: UserRules, room_id: RoomId, recipient: Recipient) -> Triggers:
    """Return the triggers of individual evaluation for this user in a room.

    A new display name needs new triggers if `rules.uses_display_name`.
    """
    if not rules.has_triggers:
        return NO_TRIGGERS
    words, senders = set(), set()
    for rule in rules.reachable_in(room_id):
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


def affected_rooms(changes: RuleChanges, switches: RuleSwitches) -> tuple[bool, frozenset[RoomId]]:
    """Return whether these changes may matter in any room, and the rooms in which some matter: `push_rules.rooms`."""
    own = (
        compile_rule(kind, rule.shown(), switches)
        for kind, rules in changes.rules.items()
        for rule in rules
        if rule.enabled
    )
    rooms = [rule.room_id for rule in own if rule is not None]
    everywhere = bool(changes.defaults) or None in rooms
    return everywhere, frozenset(room_id for room_id in rooms if room_id is not None)


def _shared_rules(rules: UserRules, room_id: RoomId) -> list[CompiledRule]:
    kept = [rule for rule in rules.reachable_in(room_id) if rule.trigger is None]
    while kept and not kept[-1].notifies:
        kept.pop()
    return kept


def _identity(rules: Sequence[CompiledRule]) -> bytes:
    form = [[rule.conditions, rule.notifies, rule.highlights] for rule in rules]
    return orjson.dumps(form, option=orjson.OPT_SORT_KEYS)


_NO_ROOM: Final = RoomId("")
_DEFAULTS: Final = {
    switches: UserRules(NO_CHANGES, switches)
    for switches in (RuleSwitches(*states) for states in product((False, True), repeat=3))
}
_DEFAULT_IDENTITIES: Final = {
    switches: _identity(_shared_rules(rules, _NO_ROOM)) for switches, rules in _DEFAULTS.items()
}
_DEFAULTS_SHARED: Final = {
    switches: SharedRules(_shared_rules(rules, _NO_ROOM), DEFAULT_GROUP) for switches, rules in _DEFAULTS.items()
}
_SHARED: Final[WeakValueDictionary[bytes, SharedRules]] = WeakValueDictionary()
