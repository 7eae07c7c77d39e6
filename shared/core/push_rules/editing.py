"""Changes to a user's push rules. Each function returns the new changes and leaves its arguments as they are.

Spec: client-server API, "Push Rules: API".
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from shared.core.errors import MatrixError, invalid_param, not_found
from shared.core.identifiers import RoomId, UserId
from shared.core.push_rules.changes import DefaultChange, RuleChanges, UserRule, rules_of_kind
from shared.core.push_rules.default_rules import ANY_USER, RuleSwitches, default_rules_of_kind
from shared.core.push_rules.validation import check_size


def put_rule(
    changes: RuleChanges, kind: str, rule: UserRule, before: str | None = None, after: str | None = None
) -> RuleChanges:
    """Add a rule, or replace it. A new rule becomes the most important of its kind, a replaced one keeps its place.

    before, after: the rule right above or below which it goes instead. `before` wins if both are given. A rule put next
        to itself keeps its place.
    A replaced rule stays enabled or disabled. Raises M_UNKNOWN (400) if the other rule is not one of the user's own.
    """
    before, after = (other if other != rule.rule_id else None for other in (before, after))
    rules = list(changes.of_kind(kind))
    place = _place_of(rules, rule.rule_id)
    if place is not None:
        rule = replace(rule, enabled=rules[place].enabled)
    if before is not None or after is not None:
        others = [other for other in rules if other.rule_id != rule.rule_id]
        others.insert(_next_to(others, before, after), rule)
        rules = others
    elif place is None:
        rules.insert(0, rule)
    else:
        rules[place] = rule
    return check_size(changes.with_kind(kind, rules))


def _next_to(rules: Sequence[UserRule], before: str | None, after: str | None) -> int:
    other = before if before is not None else after
    assert other is not None
    if other.startswith("."):
        raise invalid_param("A rule cannot be placed next to one of the server's default rules")
    place = _place_of(rules, other)
    if place is None:
        raise MatrixError("M_UNKNOWN", "The rule of before or after was not found", 400)
    return place if before is not None else place + 1


def _place_of(rules: Sequence[UserRule], rule_id: str) -> int | None:
    return next((place for place, rule in enumerate(rules) if rule.rule_id == rule_id), None)


def delete_rule(changes: RuleChanges, kind: str, rule_id: str) -> RuleChanges:
    """Delete one of the user's own rules. Raises M_NOT_FOUND if there is none; default rules cannot be deleted."""
    rules = [rule for rule in changes.of_kind(kind) if rule.rule_id != rule_id]
    if len(rules) == len(changes.of_kind(kind)):
        raise _no_such_rule()
    return changes.with_kind(kind, rules)


def set_enabled(changes: RuleChanges, kind: str, rule_id: str, enabled: bool, switches: RuleSwitches) -> RuleChanges:
    """Enable or disable a rule, which may be a default one. Raises M_NOT_FOUND."""
    default = _default_rule(kind, rule_id, switches)
    if default is None:
        return _replaced(changes, kind, rule_id, enabled=enabled)
    known = changes.defaults.get(rule_id, DefaultChange())
    return changes.with_default(rule_id, replace(known, enabled=None if enabled is default["enabled"] else enabled))


def set_actions(
    changes: RuleChanges, kind: str, rule_id: str, actions: Sequence[Any], switches: RuleSwitches
) -> RuleChanges:
    """Set the actions of a rule, which may be a default one. Raises M_NOT_FOUND, and M_INVALID_PARAM at a limit."""
    default = _default_rule(kind, rule_id, switches)
    if default is None:
        return check_size(_replaced(changes, kind, rule_id, actions=actions))
    known = changes.defaults.get(rule_id, DefaultChange())
    same = list(actions) == default["actions"]
    return check_size(changes.with_default(rule_id, replace(known, actions=None if same else actions)))


def find_rule(changes: RuleChanges, kind: str, rule_id: str, user_id: UserId, switches: RuleSwitches) -> dict[str, Any]:
    """Return a rule as GET /pushrules/ shows it. Raises M_NOT_FOUND."""
    for rule in rules_of_kind(changes, kind, user_id, switches):
        if rule["rule_id"] == rule_id:
            return rule
    raise _no_such_rule()


def copy_room_rules(changes: RuleChanges, old_room_id: RoomId, new_room_id: RoomId) -> RuleChanges:
    """Copy a user's rules about a room to the room that replaces it, right below the rules about the old one.

    These are room rules, and rules with a condition on the old room's id. Nothing is copied if the new room has rules,
    or if the copies would exceed a limit.
    """
    copied = changes
    for kind, rules in changes.rules.items():
        known = {rule.rule_id for rule in rules}
        with_copies: list[UserRule] = []
        for rule in rules:
            with_copies.append(rule)
            copy = _about(kind, rule, old_room_id, new_room_id)
            if copy is not None and copy.rule_id not in known:
                with_copies.append(copy)
        copied = copied.with_kind(kind, with_copies)
    try:
        return check_size(copied)
    except MatrixError:
        return changes


def _about(kind: str, rule: UserRule, old_room_id: RoomId, new_room_id: RoomId) -> UserRule | None:
    """Return the rule for another room, or None if it is not about the old one."""
    conditions = None
    if rule.conditions is not None:
        conditions = [_moved(condition, old_room_id, new_room_id) for condition in rule.conditions]
    if rule.rule_id != old_room_id if kind == "room" else conditions == rule.conditions:
        return None
    rule_id = rule.rule_id.replace(old_room_id, new_room_id)
    if rule_id == rule.rule_id:
        rule_id = f"{rule.rule_id} {new_room_id}"[:255]
    return replace(rule, rule_id=rule_id, conditions=conditions)


def _moved(condition: Any, old_room_id: RoomId, new_room_id: RoomId) -> Any:
    if condition.get("key") != "room_id":
        return condition
    return {
        name: new_room_id if name in ("pattern", "value") and value == old_room_id else value
        for name, value in condition.items()
    }


def _default_rule(kind: str, rule_id: str, switches: RuleSwitches) -> dict[str, Any] | None:
    rules = default_rules_of_kind(kind, ANY_USER, switches)
    return next((rule for rule in rules if rule["rule_id"] == rule_id), None)


def _replaced(changes: RuleChanges, kind: str, rule_id: str, **values: Any) -> RuleChanges:
    rules = list(changes.of_kind(kind))
    place = _place_of(rules, rule_id)
    if place is None:
        raise _no_such_rule()
    rules[place] = replace(rules[place], **values)
    return changes.with_kind(kind, rules)


def _no_such_rule() -> MatrixError:
    return not_found("The push rule was not found")
