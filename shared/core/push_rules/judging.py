"""What comes of an event for one user, and for all those whose rules say the same of a room: his group.

A user's rules that only matter where an index names him (his keywords, senders, his own name and id) are not part of
what he shares with others, as are those that speak of other rooms. What remains is put into one form, so that it is
equal where it means the same: without what can never be reached, and without the end that notifies of nothing.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final
from weakref import WeakValueDictionary

import orjson

from shared.core.push_rules.changes import NO_CHANGES, RuleChanges, changes_from_json
from shared.core.push_rules.compiled_rule import (
    DISPLAY_NAME,
    NAMED,
    SENDER_ID,
    WORD,
    CompiledRule,
    RoomTest,
    compile_rule,
    compile_rules,
)
from shared.core.push_rules.conditions import NOBODY, Reader, Test
from shared.core.push_rules.default_rules import ALL_OFF, RuleSwitches
from shared.core.push_rules.judged_event import JudgedEvent
from shared.core.push_rules.patterns import literal_key

#: The group of those whose rules say in a room what the default rules say.
DEFAULT_GROUP: Final = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """notifies, highlights: 0 or 1, the latter only with the former; actions: those of the rule that decided."""

    notifies: int
    highlights: int
    actions: Sequence[Any]


NOTHING: Final = Outcome(0, 0, ())


@dataclass(frozen=True, slots=True)
class Triggers:
    """What in an event calls for judging a user individually. words: keys as `JudgedEvent.word_keys` gives them;
    senders: as `JudgedEvent.sender_key` gives them. Whom `JudgedEvent.named_users` names must be judged anyway.
    """

    words: frozenset[str]
    senders: frozenset[str]


NO_TRIGGERS: Final = Triggers(frozenset(), frozenset())


class UserRules:
    """A user's rules, compiled. All who changed nothing share one."""

    __slots__ = ("_rules", "has_triggers", "switches", "uses_display_name")

    def __init__(self, changes: RuleChanges, switches: RuleSwitches) -> None:
        self._rules = compile_rules(changes, switches)
        self.switches = switches
        kinds = {rule.trigger.kind for rule in self._rules if rule.trigger is not None}
        #: Whether `individual_triggers` can give anything in any room.
        self.has_triggers = not kinds <= {NAMED}
        #: Whether what it gives depends on the user's display name in the room.
        self.uses_display_name = DISPLAY_NAME in kinds

    def judge(self, event: JudgedEvent, reader: Reader) -> Outcome:
        """Return what comes of the event for this user; of his own events nothing does."""
        if event.sender == reader.user_id:
            return NOTHING
        for rule in self._rules:
            if _holds(rule.room_tests, event.room_id) and _matches(rule.tests, event, reader):
                return Outcome(rule.notifies, rule.highlights, rule.actions)
        return NOTHING

    def reachable_in(self, room_id: str) -> list[CompiledRule]:
        """Return the rules that can decide in a room, in their order."""
        reachable = []
        for rule in self._rules:
            if _holds(rule.room_tests, room_id):
                reachable.append(rule)
                if not rule.tests:
                    break
        return reachable


class SharedRules:
    """What the rules of a group say in a room, apart from what an index names. Equal ones are one object.

    group: an int64, DEFAULT_GROUP for what the default rules say.
    """

    __slots__ = ("__weakref__", "_rules", "group")

    def __init__(self, rules: Sequence[CompiledRule], group: int) -> None:
        self._rules = tuple((rule.tests, (rule.notifies, rule.highlights)) for rule in rules)
        self.group = group

    def judge(self, event: JudgedEvent) -> tuple[int, int]:
        """Return (notifies, highlights), 0 or 1 each, for a member of the group whom nothing names."""
        for tests, outcome in self._rules:
            if _matches(tests, event, NOBODY):
                return outcome
        return 0, 0


def _holds(room_tests: Sequence[RoomTest], room_id: str) -> bool:
    for test in room_tests:  # noqa: SIM110  half the price of all()
        if not test(room_id):
            return False
    return True


def _matches(tests: Sequence[Test], event: JudgedEvent, reader: Reader) -> bool:
    for test in tests:  # noqa: SIM110  half the price of all()
        if not test(event, reader):
            return False
    return True


def user_rules(json: bytes, switches: RuleSwitches = ALL_OFF) -> UserRules:
    """Return a user's rules. json: what `push_rules.rules` holds, b"" for nobody's changes: then one for all."""
    return UserRules(changes_from_json(json), switches) if json else _DEFAULTS[switches]


def shared_part(rules: UserRules, room_id: str) -> SharedRules:
    """Return what these rules share with those of others in a room: the same object for the same meaning."""
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


def group_of(rules: UserRules, room_id: str) -> int:
    """Return the group of a user with these rules in a room, an int64."""
    return shared_part(rules, room_id).group


def individual_triggers(rules: UserRules, room_id: str, display_name: str) -> Triggers:
    """Return what calls for judging this user individually in a room.

    display_name: his there, "" for none: a new one needs this anew where `rules.uses_display_name`.
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
        elif rule.trigger.kind == DISPLAY_NAME and (key := literal_key(display_name)) is not None:
            words.add(key)
    return Triggers(frozenset(words), frozenset(senders))


def where_they_matter(changes: RuleChanges, switches: RuleSwitches) -> tuple[bool, frozenset[str]]:
    """Return whether these changes can matter in any room, and the rooms in which some do: `push_rules.rooms`."""
    own = (
        compile_rule(kind, rule.shown(), switches)
        for kind, rules in changes.rules.items()
        for rule in rules
        if rule.enabled
    )
    rooms = [rule.room_id for rule in own if rule is not None]
    everywhere = bool(changes.defaults) or None in rooms
    return everywhere, frozenset(room_id for room_id in rooms if room_id is not None)


def _shared_rules(rules: UserRules, room_id: str) -> list[CompiledRule]:
    kept = [rule for rule in rules.reachable_in(room_id) if rule.trigger is None]
    while kept and not kept[-1].notifies:
        kept.pop()
    return kept


def _identity(rules: Sequence[CompiledRule]) -> bytes:
    form = [[rule.conditions, rule.notifies, rule.highlights] for rule in rules]
    return orjson.dumps(form, option=orjson.OPT_SORT_KEYS)


_DEFAULTS: Final = {
    switches: UserRules(NO_CHANGES, switches)
    for switches in (RuleSwitches(*both) for both in product((False, True), repeat=2))
}
_DEFAULT_IDENTITIES: Final = {switches: _identity(_shared_rules(rules, "")) for switches, rules in _DEFAULTS.items()}
_DEFAULTS_SHARED: Final = {
    switches: SharedRules(_shared_rules(rules, ""), DEFAULT_GROUP) for switches, rules in _DEFAULTS.items()
}
_SHARED: Final[WeakValueDictionary[bytes, SharedRules]] = WeakValueDictionary()
