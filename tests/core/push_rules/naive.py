"""A second, slow evaluator. It reads rules as GET /pushrules/ shows them, and follows the spec's prose literally."""

from collections.abc import Mapping
from typing import Any

from shared.core.push_rules import PushEvent, Recipient

_LEGACY = (".m.rule.contains_display_name", ".m.rule.contains_user_name", ".m.rule.roomnotif")
_WORD = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


def evaluate(ruleset: Mapping[str, Any], event: PushEvent, recipient: Recipient) -> tuple[bool, bool, Any]:
    """Return (notifies, highlights, actions of the rule that matched or None)."""
    if event.properties["sender"] == recipient.user_id:
        return False, False, None
    for kind in ("override", "content", "postcontent", "room", "sender", "underride"):
        for rule in ruleset["global"].get(kind, []):
            if rule["enabled"] and _rule_matches(kind, rule, event, recipient):
                actions = rule["actions"]
                notifies = "notify" in actions
                tweaks = {a["set_tweak"]: a.get("value", True) for a in actions if isinstance(a, dict)}
                return notifies, notifies and tweaks.get("highlight", False) is True, actions
    return False, False, None


def _rule_matches(kind: str, rule: Mapping[str, Any], event: PushEvent, recipient: Recipient) -> bool:
    if rule["default"] and rule["rule_id"] in _LEGACY and _property(r"content.m\.mentions", event)[0]:
        return False
    if kind == "content":
        return _condition({"kind": "event_match", "key": "content.body", "pattern": rule["pattern"]}, event, recipient)
    if kind == "room":
        return event.room_id == str(rule["rule_id"])
    if kind == "sender":
        return bool(event.properties["sender"] == rule["rule_id"])
    return all(_condition(condition, event, recipient) for condition in rule["conditions"])


def _condition(condition: Mapping[str, Any], event: PushEvent, recipient: Recipient) -> bool:
    kind = condition["kind"]
    if kind in ("event_match", "event_property_is", "event_property_contains"):
        there, value = _property(condition["key"], event)
        return there and _compare(kind, condition, value)
    if kind == "contains_display_name":
        body = _property("content.body", event)[1]
        name = recipient.display_name
        return (
            isinstance(body, str) and bool(name.strip()) and _in_words(lambda text: text == name.lower(), body.lower())
        )
    if kind == "room_member_count":
        for sign in ("==", "<=", ">=", "<", ">", ""):
            if condition["is"].startswith(sign):
                number = int(condition["is"][len(sign) :])
                count = event.member_count
                return {
                    "==": count == number,
                    "<=": count <= number,
                    ">=": count >= number,
                    "<": count < number,
                    ">": count > number,
                    "": count == number,
                }[sign]
    if kind == "sender_notification_permission":
        return event.levels.user_level(event.sender) >= event.levels.notifications.get(condition["key"], 50)
    if kind == "io.element.msc4306.thread_subscription":
        return event.in_thread and condition["subscribed"] == recipient.subscribed
    return False


def _compare(kind: str, condition: Mapping[str, Any], value: Any) -> bool:
    if kind == "event_property_is":
        return _same(value, condition["value"])
    if kind == "event_property_contains":
        return isinstance(value, list) and any(_same(item, condition["value"]) for item in value)
    if not isinstance(value, str):
        return False
    pattern, text = condition["pattern"].lower(), value.lower()
    if condition["key"] == "content.body":
        return _in_words(lambda part: _glob(pattern, part), text)
    return _glob(pattern, text)


def _same(one: Any, other: Any) -> bool:
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def _in_words(matches: Any, text: str) -> bool:
    """Return True if any part between two word boundaries matches."""
    bounds = [
        place
        for place in range(len(text) + 1)
        if place in (0, len(text)) or text[place] not in _WORD or text[place - 1] not in _WORD
    ]
    return any(matches(text[start:end]) for start in bounds for end in bounds if start <= end)


def _glob(pattern: str, text: str) -> bool:
    if not pattern:
        return not text
    if pattern[0] == "*":
        return any(_glob(pattern[1:], text[start:]) for start in range(len(text) + 1))
    return bool(text) and pattern[0] in ("?", text[0]) and _glob(pattern[1:], text[1:])


def _property(path: str, event: PushEvent) -> tuple[bool, Any]:
    names, at = [""], 0
    while at < len(path):
        if path[at] == "\\" and path[at + 1 : at + 2] in ("\\", "."):
            names[-1] += path[at + 1]
            at += 2
            continue
        if path[at] == ".":
            names.append("")
        else:
            names[-1] += path[at]
        at += 1
    value: Any = {**event.properties, "room_id": event.room_id}
    for name in names:
        if not isinstance(value, dict) or name not in value:
            return False, None
        value = value[name]
    return True, value
