"""A user's changes to the default rules: the compact form that is stored, and the whole rule set made from it.

The default rules are never stored, so that a new one reaches all users.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import orjson

from shared.core.identifiers import UserId
from shared.core.push_rules.default_rules import KINDS, RuleSwitches, default_rules_of_kind

MASTER: Final = ".m.rule.master"


@dataclass(frozen=True, slots=True)
class UserRule:
    """A rule of the user's own.

    conditions: of override, underride and postcontent rules.
    pattern: of content rules.
    """

    rule_id: str
    actions: Sequence[Any]
    enabled: bool = True
    conditions: Sequence[Mapping[str, Any]] | None = None
    pattern: str | None = None

    def shown(self) -> dict[str, Any]:
        """Return the rule as GET /pushrules/ shows it."""
        rule: dict[str, Any] = {"rule_id": self.rule_id, "default": False, "enabled": self.enabled}
        if self.conditions is not None:
            rule["conditions"] = list(self.conditions)
        if self.pattern is not None:
            rule["pattern"] = self.pattern
        return rule | {"actions": list(self.actions)}


@dataclass(frozen=True, slots=True)
class DefaultChange:
    """A user's changes to a default rule. None: not changed."""

    enabled: bool | None = None
    actions: Sequence[Any] | None = None


@dataclass(frozen=True, slots=True)
class RuleChanges:
    """A user's changes to the default rules.

    rules: kind -> the user's own rules, most important first.
    defaults: rule id -> the changes to that default rule.
    """

    rules: Mapping[str, Sequence[UserRule]] = field(default_factory=dict)
    defaults: Mapping[str, DefaultChange] = field(default_factory=dict)

    def of_kind(self, kind: str) -> Sequence[UserRule]:
        return self.rules.get(kind, ())

    def with_kind(self, kind: str, rules: Sequence[UserRule]) -> "RuleChanges":
        """Return these changes with the rules of one kind replaced."""
        return replace(self, rules={**self.rules, kind: tuple(rules)})

    def with_default(self, rule_id: str, change: DefaultChange) -> "RuleChanges":
        """Return these changes with the change to a default rule replaced."""
        others = {other: kept for other, kept in self.defaults.items() if other != rule_id}
        return replace(self, defaults=others if change == DefaultChange() else {**others, rule_id: change})


NO_CHANGES: Final = RuleChanges()


def changes_to_json(changes: RuleChanges) -> bytes:
    """Return the compact form, as stored in `push_rules.rules`. It is `b""` if nothing is changed."""
    rules = {kind: [_compact(rule) for rule in rules] for kind, rules in changes.rules.items() if rules}
    defaults = {
        rule_id: {name: value for name in ("enabled", "actions") if (value := getattr(change, name)) is not None}
        for rule_id, change in changes.defaults.items()
    }
    parts = {"rules": rules, "defaults": {rule_id: change for rule_id, change in defaults.items() if change}}
    full = {name: part for name, part in parts.items() if part}
    return orjson.dumps(full) if full else b""


def _compact(rule: UserRule) -> dict[str, Any]:
    compact: dict[str, Any] = {"rule_id": rule.rule_id, "actions": list(rule.actions)}
    if not rule.enabled:
        compact["enabled"] = False
    if rule.conditions is not None:
        compact["conditions"] = list(rule.conditions)
    if rule.pattern is not None:
        compact["pattern"] = rule.pattern
    return compact


def changes_from_json(json: bytes) -> RuleChanges:
    """Return the changes in a text of `changes_to_json`. `b""` means no changes. Unknown keys are skipped."""
    if not json:
        return NO_CHANGES
    full = orjson.loads(json)
    return RuleChanges(
        {kind: tuple(map(_rule_from_json, rules)) for kind, rules in full.get("rules", {}).items()},
        {
            rule_id: DefaultChange(change.get("enabled"), change.get("actions"))
            for rule_id, change in full.get("defaults", {}).items()
        },
    )


def _rule_from_json(rule: Mapping[str, Any]) -> UserRule:
    return UserRule(
        rule["rule_id"],
        rule["actions"],
        enabled=rule.get("enabled", True),
        conditions=rule.get("conditions"),
        pattern=rule.get("pattern"),
    )


def full_ruleset(changes: RuleChanges, user_id: UserId, switches: RuleSwitches) -> dict[str, Any]:
    """Return all rules of the user as GET /pushrules/ shows them: `{"global": {kind: [rule, ...], ...}}`."""
    return {"global": {kind: rules_of_kind(changes, kind, user_id, switches) for kind in shown_kinds(switches)}}


def shown_kinds(switches: RuleSwitches) -> tuple[str, ...]:
    """Return the kinds that users see, in the order of evaluation."""
    return tuple(kind for kind in KINDS if kind != "postcontent" or switches.thread_subscriptions)


def rules_of_kind(changes: RuleChanges, kind: str, user_id: UserId, switches: RuleSwitches) -> list[dict[str, Any]]:
    """Return the rules of one kind, the user's own and the default ones, in the order of evaluation.

    Spec: "Predefined Rules": the user's own rules come first, except that `.m.rule.master` precedes them.
    """
    defaults = [_changed(rule, changes.defaults) for rule in default_rules_of_kind(kind, user_id, switches)]
    own = [rule.shown() for rule in changes.of_kind(kind)]
    above = 1 if defaults and defaults[0]["rule_id"] == MASTER else 0
    return [*defaults[:above], *own, *defaults[above:]]


def _changed(rule: dict[str, Any], changes: Mapping[str, DefaultChange]) -> dict[str, Any]:
    change = changes.get(rule["rule_id"])
    if change is None:
        return rule
    if change.enabled is not None:
        rule["enabled"] = change.enabled
    if change.actions is not None:
        rule["actions"] = list(change.actions)
    return rule
