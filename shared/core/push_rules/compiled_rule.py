"""One enabled rule, compiled for evaluation, with its trigger for an index.

Conditions on the room id are separate: they hold for all events of a room, or for none. The spec does not define
"case-insensitively" for them; here a room id without wildcards is compared exactly.

The default rules are compiled once for all users. When a user changes a rule, the others are not compiled again.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from shared.core.globs import glob, has_wildcards
from shared.core.identifiers import RoomId, UserId
from shared.core.property_path import split_path
from shared.core.push_rules.changes import MASTER, DefaultChange, RuleChanges, shown_kinds
from shared.core.push_rules.conditions import (
    BODY,
    ROOM_ID,
    SENDER,
    THREAD_SUBSCRIPTION,
    Test,
    compile_condition,
    contains_user_name,
    has_no_mentions,
    is_own_id,
    searches,
    uncounted,
)
from shared.core.push_rules.default_rules import (
    CONTAINS_DISPLAY_NAME,
    CONTAINS_USER_NAME,
    LEGACY_MENTIONS,
    RuleSwitches,
    default_rules_of_kind,
)
from shared.core.push_rules.patterns import word_key

#: The placeholder for the recipient's own user id in default rules.
_OWN_ID: Final = UserId("[the user's Matrix ID]")


RoomTest: TypeAlias = Callable[[str], bool]


class Trigger(NamedTuple):
    """A feature of events without which a rule cannot match.

    kind: WORD, SENDER_ID (key in lower case), DISPLAY_NAME, USER_NAME or NAMED.
    """

    kind: str
    key: str = ""


WORD: Final = "word"
SENDER_ID: Final = "sender"
DISPLAY_NAME: Final = "display name"
USER_NAME: Final = "user name"
NAMED: Final = "named"


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledRule:
    """A rule, compiled for evaluation.

    identity: JSON of the conditions, except those on the room id, and on the recipient's own id (they have a trigger),
        and of the outcome. Rules with the same identity mean the same.
    tests: all conditions except those on the room id.
    room_tests: the conditions on the room id.
    room_id: the one room in which the rule can match, or None if unknown.
    trigger: None if any event may match.
    steps: what evaluating the rule takes, without searches (`budget.py`). 0 for default rules.
    searches: True if one of the user's own conditions searches a text.
    outcome: (notifies, highlights), 0 or 1 each; highlights only with notifies.
    """

    identity: bytes
    tests: Sequence[Test]
    room_tests: Sequence[RoomTest]
    room_id: RoomId | None
    trigger: Trigger | None
    steps: int
    searches: bool
    outcome: tuple[int, int]
    actions: Sequence[Any]


#: A user's own rules by their kind and JSON. None: the rule can match nothing.
OwnRules: TypeAlias = Mapping[bytes, CompiledRule | None]


class _DefaultRule(NamedTuple):
    """A default rule before the user's changes. rule: None if it can match nothing."""

    rule_id: str
    enabled: bool
    rule: CompiledRule | None


def compile_rules(
    changes: RuleChanges, switches: RuleSwitches, known: OwnRules
) -> tuple[tuple[CompiledRule, ...], OwnRules]:
    """Return the enabled rules that can match anything, in the order of evaluation, and the user's own among them.

    known: own rules that are compiled already.
    """
    rules: list[CompiledRule | None] = []
    own: dict[bytes, CompiledRule | None] = {}
    for kind in shown_kinds(switches):
        defaults = _default_rules(kind, switches)
        above = 1 if defaults and defaults[0].rule_id == MASTER else 0
        rules += [_changed(default, changes.defaults.get(default.rule_id)) for default in defaults[:above]]
        for rule in changes.of_kind(kind):
            if rule.enabled:
                json = _dumps([kind, rule.shown()])
                own[json] = known[json] if json in known else compile_rule(kind, rule.shown(), switches)
                rules.append(own[json])
        rules += [_changed(default, changes.defaults.get(default.rule_id)) for default in defaults[above:]]
    return tuple(rule for rule in rules if rule is not None), own


@cache
def _default_rules(kind: str, switches: RuleSwitches) -> tuple[_DefaultRule, ...]:
    return tuple(
        _DefaultRule(rule["rule_id"], rule["enabled"], compile_rule(kind, rule, switches))
        for rule in default_rules_of_kind(kind, _OWN_ID, switches)
    )


def _changed(default: _DefaultRule, change: DefaultChange | None) -> CompiledRule | None:
    """Return a default rule as the user wants it, or None if it is not enabled."""
    if change is None:
        return default.rule if default.enabled else None
    if not (default.enabled if change.enabled is None else change.enabled) or default.rule is None:
        return None
    if change.actions is None:
        return default.rule
    return _with_actions(default.rule, change.actions)


def _with_actions(rule: CompiledRule, actions: Sequence[Any]) -> CompiledRule:
    conditions, *_ = orjson.loads(rule.identity)
    outcome = _outcome_of(actions)
    return replace(rule, actions=actions, outcome=outcome, identity=_identity(conditions, outcome))


def compile_rule(kind: str, rule: Mapping[str, Any], switches: RuleSwitches) -> CompiledRule | None:
    """Return a rule, given as GET /pushrules/ shows it, or None if it can match nothing."""
    if rule["default"] and rule["rule_id"] in LEGACY_MENTIONS:
        return _compile_legacy_mention(kind, rule)
    conditions = conditions_of(kind, rule)
    if not switches.thread_subscriptions and any(c.get("kind") in THREAD_SUBSCRIPTION for c in conditions):
        return None
    own = [c for c in conditions if rule["default"] and _OWN_ID in c.values()]
    others = [c for c in conditions if c not in own]
    of_room = [c for c in others if _path(c) == ROOM_ID]
    rest = [c for c in others if _path(c) != ROOM_ID]
    tests, room_tests = [compile_condition(c) for c in rest], [_room_test(c) for c in of_room]
    if None in tests or None in room_tests:
        return None
    outcome = _outcome_of(rule["actions"])
    return CompiledRule(
        identity=_identity(rest, outcome),
        tests=tuple([test for test in tests if test is not None] + [is_own_id(c) for c in own]),
        room_tests=tuple(test for test in room_tests if test is not None),
        room_id=room_of(conditions),
        trigger=Trigger(NAMED) if own else next((t for c in rest if (t := _trigger_of(c)) is not None), None),
        steps=0 if rule["default"] else 1 + len(tests),
        searches=not rule["default"] and any(map(searches, rest)),
        outcome=outcome,
        actions=rule["actions"],
    )


def is_indexed(kind: str, rule: Mapping[str, Any]) -> bool:
    """Return True if an index of words or senders names the rule's user."""
    triggers = (_trigger_of(condition) for condition in conditions_of(kind, rule))
    return any(trigger is not None and trigger.kind in (WORD, SENDER_ID) for trigger in triggers)


def room_of_rule(kind: str, rule: Mapping[str, Any]) -> RoomId | None:
    """Return the one room in which a rule can match, or None if it may match in others."""
    return room_of(conditions_of(kind, rule))


def room_of(conditions: Sequence[Mapping[str, Any]]) -> RoomId | None:
    """Return the one room in which these conditions can hold, or None if they may hold in others."""
    values = (_plain_value(condition) for condition in conditions if _path(condition) == ROOM_ID)
    return next((RoomId(room_id) for room_id in values if room_id is not None), None)


def _compile_legacy_mention(kind: str, rule: Mapping[str, Any]) -> CompiledRule:
    """Return a rule for events without `m.mentions`. `@room` is no trigger, or it would name all members one by one."""
    rule_id = rule["rule_id"]
    conditions = () if rule_id == CONTAINS_USER_NAME else conditions_of(kind, rule)
    tests = [test for c in conditions if (test := compile_condition(c)) is not None]
    if rule_id == CONTAINS_USER_NAME:
        tests.append(contains_user_name)
    tests = [uncounted(test) for test in tests]
    triggers = {CONTAINS_DISPLAY_NAME: Trigger(DISPLAY_NAME), CONTAINS_USER_NAME: Trigger(USER_NAME)}
    outcome = _outcome_of(rule["actions"])
    return CompiledRule(
        identity=_identity([{"kind": "no m.mentions"}, *conditions], outcome),
        tests=(has_no_mentions, *tests),
        room_tests=(),
        room_id=None,
        trigger=triggers.get(rule_id),
        steps=0,
        searches=False,
        outcome=outcome,
        actions=rule["actions"],
    )


def _identity(conditions: Sequence[Mapping[str, Any]], outcome: tuple[int, int]) -> bytes:
    return _dumps([conditions, *outcome])


def _dumps(value: Any) -> bytes:
    """Return JSON that may be kept: what orjson returns occupies 4 KB, however short it is."""
    return memoryview(orjson.dumps(value, option=orjson.OPT_SORT_KEYS)).tobytes()


def conditions_of(kind: str, rule: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Return the requirements of a rule as conditions. Spec: "Push Rules"."""
    if kind == "content":
        return [{"kind": "event_match", "key": "content.body", "pattern": rule["pattern"]}]
    if kind == "room":
        return [{"kind": "event_property_is", "key": "room_id", "value": rule["rule_id"]}]
    if kind == "sender":
        return [{"kind": "event_property_is", "key": "sender", "value": rule["rule_id"]}]
    conditions: Sequence[Mapping[str, Any]] = rule.get("conditions", ())
    return conditions


def _path(condition: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the path of the property that the condition is about, or () for other conditions."""
    if condition["kind"] not in ("event_match", "event_property_is"):
        return ()
    key = condition.get("key")
    return split_path(key) if isinstance(key, str) else ()


def _plain_value(condition: Mapping[str, Any]) -> str | None:
    """Return the only text that satisfies the condition, leaving case aside, or None if there are others."""
    if condition["kind"] == "event_property_is":
        return value if isinstance(value := condition.get("value"), str) else None
    pattern = condition.get("pattern")
    return pattern if isinstance(pattern, str) and not has_wildcards(pattern) else None


def _trigger_of(condition: Mapping[str, Any]) -> Trigger | None:
    if condition["kind"] == "contains_display_name":
        return Trigger(DISPLAY_NAME)
    path, value = _path(condition), _plain_value(condition)
    if path == SENDER and value is not None:
        return Trigger(SENDER_ID, value.lower())
    if path == BODY and condition["kind"] == "event_match" and value is not None:
        key = word_key(value)
        return Trigger(WORD, key) if key is not None else None
    return None


def _room_test(condition: Mapping[str, Any]) -> RoomTest | None:
    if (value := _plain_value(condition)) is not None:
        return value.__eq__
    pattern = condition.get("pattern")
    if condition["kind"] != "event_match" or not isinstance(pattern, str):
        return None
    matches = glob(pattern.lower()).matches
    return lambda room_id: matches(room_id.lower())


def _outcome_of(actions: Sequence[Any]) -> tuple[int, int]:
    """Return (notifies, highlights). Spec, "Actions": a highlight without a value is true; the last one counts."""
    if "notify" not in actions:
        return 0, 0
    highlights = 0
    for action in actions:
        if isinstance(action, dict) and action.get("set_tweak") == "highlight":
            highlights = int(action.get("value", True) is True)
    return 1, highlights
