"""Validation of requests about push rules. Spec: client-server API, "Push Rules: API".

The limits are far above what users need. They exist because a user's changes travel to every process that evaluates
events, and each pattern may be tried on every event of the user's rooms.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import orjson

from shared.core.errors import invalid_param, missing_param
from shared.core.globs import has_wildcards
from shared.core.identifiers import within_bytes
from shared.core.property_path import split_path
from shared.core.push_rules.budget import STEPS_PER_USER
from shared.core.push_rules.changes import RuleChanges, UserRule, changes_to_json, shown_kinds
from shared.core.push_rules.compiled_rule import conditions_of, is_indexed
from shared.core.push_rules.conditions import KNOWN_CONDITIONS, compile_condition, ordinary_steps
from shared.core.push_rules.default_rules import RuleSwitches

MAX_RULES: Final = 1_000  # per user, all kinds together
MAX_CHANGES_BYTES: Final = 131_072
MAX_WILDCARD_PATTERNS: Final = 100  # per user
MAX_INDEXED_RULES: Final = 300  # per user: each room has an index of the words and senders that they look for
_MAX_ID_BYTES = 255
_MAX_TEXT_BYTES = 512  # a pattern, key or value
_MAX_KEY_NAMES = 32  # in the path of a property
_MAX_WILDCARDS = 16  # in one pattern
_MAX_CONDITIONS = 32
_MAX_ACTIONS = 16
_MAX_RULE_BYTES = 16_384
_CONDITIONAL = ("override", "underride", "postcontent")
#: Spec, "Historical Actions". They mean nothing, but clients get them back as they set them.
_HISTORICAL = ("dont_notify", "coalesce")


def check_kind(kind: str, switches: RuleSwitches) -> str:
    """Return the kind. Raises M_INVALID_PARAM if it does not exist."""
    if kind not in shown_kinds(switches):
        raise invalid_param("Unknown kind of push rule")
    return kind


def check_new_id(rule_id: str) -> str:
    """Return the id of a rule of the user's own. Raises M_INVALID_PARAM."""
    if rule_id.startswith("."):
        raise invalid_param("Rule ids that begin with a dot are reserved for the server's default rules")
    if "/" in rule_id or "\\" in rule_id:
        raise invalid_param("The id of a push rule must not contain / or \\")
    if not rule_id or not within_bytes(rule_id, _MAX_ID_BYTES):
        raise invalid_param(f"The id of a push rule must have 1 to {_MAX_ID_BYTES} bytes")
    return rule_id


def read_rule(kind: str, rule_id: str, body: Mapping[str, Any]) -> UserRule:
    """Return the rule of a PUT. Raises M_INVALID_PARAM, M_MISSING_PARAM."""
    actions = read_actions(body)
    conditions = read_conditions(body.get("conditions", [])) if kind in _CONDITIONAL else None
    pattern = read_pattern(body) if kind == "content" else None
    rule = UserRule(rule_id, actions, conditions=conditions, pattern=pattern)
    if len(orjson.dumps(rule.shown())) > _MAX_RULE_BYTES:
        raise invalid_param(f"A push rule must have at most {_MAX_RULE_BYTES} bytes")
    return rule


def read_enabled(body: Mapping[str, Any]) -> bool:
    """Return `enabled` of a PUT. Raises M_INVALID_PARAM, M_MISSING_PARAM."""
    if "enabled" not in body:
        raise missing_param("enabled is missing")
    if not isinstance(enabled := body["enabled"], bool):
        raise invalid_param("enabled must be true or false")
    return enabled


def read_actions(body: Mapping[str, Any]) -> list[Any]:
    """Return `actions` of a PUT. Raises M_INVALID_PARAM, M_MISSING_PARAM."""
    if "actions" not in body:
        raise missing_param("actions is missing")
    actions = body["actions"]
    if not isinstance(actions, list) or len(actions) > _MAX_ACTIONS:
        raise invalid_param(f"actions must be a list of at most {_MAX_ACTIONS} entries")
    if not all(action == "notify" or action in _HISTORICAL or _is_tweak(action) for action in actions):
        raise invalid_param("Each action must be notify, or an object with set_tweak")
    if len(orjson.dumps(actions)) > _MAX_RULE_BYTES:
        raise invalid_param(f"actions must have at most {_MAX_RULE_BYTES} bytes")
    return actions


def _is_tweak(action: Any) -> bool:
    return isinstance(action, dict) and isinstance(action.get("set_tweak"), str)


def read_pattern(body: Mapping[str, Any]) -> str:
    """Return `pattern` of a content rule. Raises M_INVALID_PARAM, M_MISSING_PARAM."""
    if "pattern" not in body:
        raise missing_param("A content rule needs a pattern")
    pattern = body["pattern"]
    if not isinstance(pattern, str):
        raise invalid_param("pattern must be a string")
    _check_text(pattern)
    return pattern


def read_conditions(conditions: Any) -> list[dict[str, Any]]:
    """Return the conditions. Raises M_INVALID_PARAM. Unknown kinds are accepted; they match nothing."""
    if not isinstance(conditions, list) or len(conditions) > _MAX_CONDITIONS:
        raise invalid_param(f"conditions must be a list of at most {_MAX_CONDITIONS} entries")
    for condition in conditions:
        if not isinstance(condition, dict) or not isinstance(condition.get("kind"), str):
            raise invalid_param("Each condition must be an object with a kind")
        for text in condition.values():
            if isinstance(text, str):
                _check_text(text)
        key = condition.get("key")
        if isinstance(key, str) and len(split_path(key)) > _MAX_KEY_NAMES:
            raise invalid_param(f"The key of a condition must have at most {_MAX_KEY_NAMES} names")
        if condition["kind"] in KNOWN_CONDITIONS and compile_condition(condition) is None:
            raise invalid_param(f"A key of the condition {condition['kind']} is missing or malformed")
    return conditions


def _check_text(text: str) -> None:
    if not within_bytes(text, _MAX_TEXT_BYTES):
        raise invalid_param(f"A pattern, key or value must have at most {_MAX_TEXT_BYTES} bytes")
    if text.count("*") + text.count("?") > _MAX_WILDCARDS:
        raise invalid_param(f"A pattern must have at most {_MAX_WILDCARDS} wildcards")


def check_size(changes: RuleChanges) -> RuleChanges:
    """Return the changes. Raises M_INVALID_PARAM if they exceed a limit."""
    if sum(map(len, changes.rules.values())) > MAX_RULES:
        raise invalid_param(f"A user must have at most {MAX_RULES} push rules")
    if len(changes_to_json(changes)) > MAX_CHANGES_BYTES:
        raise invalid_param(f"A user's push rules must have at most {MAX_CHANGES_BYTES} bytes altogether")
    patterns = [pattern for rules in changes.rules.values() for rule in rules for pattern in _patterns(rule)]
    if sum(map(has_wildcards, patterns)) > MAX_WILDCARD_PATTERNS:
        raise invalid_param(f"A user must have at most {MAX_WILDCARD_PATTERNS} patterns with wildcards")
    rules = [(kind, rule.shown()) for kind, of_kind in changes.rules.items() for rule in of_kind]
    if sum(is_indexed(kind, rule) for kind, rule in rules) > MAX_INDEXED_RULES:
        raise invalid_param(f"A user must have at most {MAX_INDEXED_RULES} push rules about words or senders")
    steps = sum(1 + sum(map(ordinary_steps, conditions_of(kind, rule))) for kind, rule in rules)
    if steps > STEPS_PER_USER:
        raise invalid_param(
            f"These push rules would take {steps} steps of work with each message, and at most {STEPS_PER_USER} are "
            "allowed. Remove patterns with wildcards, or make them shorter"
        )
    return changes


def _patterns(rule: UserRule) -> Sequence[str]:
    conditions = rule.conditions or ()
    named = [pattern for c in conditions if isinstance(pattern := c.get("pattern"), str)]
    return named if rule.pattern is None else [rule.pattern, *named]
