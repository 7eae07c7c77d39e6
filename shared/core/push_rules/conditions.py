"""Conditions of push rules, compiled to functions. Spec: client-server API v1.19, "Conditions".

`contains_display_name` is deprecated but still defined. It works in users' own rules; a default rule uses it only with
legacy mentions (`default_rules.py`).
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shared.core.globs import glob, has_wildcards, mark_words, search_steps, word_glob
from shared.core.identifiers import UserId
from shared.core.property_path import ABSENT, split_path
from shared.core.push_rules.budget import ORDINARY_BODY, STEPS_PER_EVENT
from shared.core.push_rules.patterns import literal_key, word_key
from shared.core.push_rules.push_event import PushEvent

BODY: Final = ("content", "body")
TYPE: Final = ("type",)
ROOM_ID: Final = ("room_id",)
SENDER: Final = ("sender",)
#: MSC4306, under the proposal's name and its earlier prefixed one.
THREAD_SUBSCRIPTION: Final = ("thread_subscription", "io.element.msc4306.thread_subscription")

_COMPARISONS: Final[Mapping[str, Callable[[int, int], bool]]] = {
    "": operator.eq,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
    ">=": operator.ge,
    "<=": operator.le,
}
_MEMBER_COUNT_RE = re.compile(r"(==|<=|>=|<|>|)([0-9]{1,15})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Recipient:
    """The user for whom an event is evaluated.

    display_name: in the room; "" for none.
    subscribed: True if the user is subscribed to the event's thread.
    """

    user_id: UserId
    display_name: str = ""
    subscribed: bool = False


#: The recipient for whom a group is evaluated: not named by anything, subscribed to nothing.
GROUP_MEMBER: Final = Recipient(UserId(""))

Test: TypeAlias = Callable[[PushEvent, Recipient], bool]


def compile_condition(condition: Mapping[str, Any]) -> Test | None:
    """Return the condition as a function, or None if it matches nothing: its kind is unknown, or it is malformed."""
    kind = condition.get("kind")
    compiler = _COMPILERS.get(kind) if isinstance(kind, str) else None
    return None if compiler is None else compiler(condition)


def is_own_id(condition: Mapping[str, Any]) -> Test:
    """Return the test of a default rule whose pattern or value is the recipient's own user id.

    It is compiled once for all recipients. User ids are compared exactly: ids that differ in case are two users.
    """
    path = split_path(condition["key"])
    if condition["kind"] == "event_match":
        return lambda event, recipient: event.value(path) == recipient.user_id
    return lambda event, recipient: event.has_entry(path, recipient.user_id)


def uncounted(test: Test) -> Test:
    """Return the test of a default rule, which takes no steps from the user's share."""

    def without_counting(event: PushEvent, recipient: Recipient) -> bool:
        left, event.steps_left = event.steps_left, STEPS_PER_EVENT
        holds = test(event, recipient)
        event.steps_left = left
        return holds

    return without_counting


def searches(condition: Mapping[str, Any]) -> bool:
    """Return True if the condition searches a text. All others take one step."""
    pattern = condition.get("pattern")
    if condition.get("kind") != "event_match" or not isinstance(pattern, str):
        return condition.get("kind") == "contains_display_name"
    return has_wildcards(pattern) or split_path(condition["key"]) == BODY


def ordinary_steps(condition: Mapping[str, Any]) -> int:
    """Return the steps of the condition with an ordinary message. The index spares words without wildcards a search."""
    pattern, key = condition.get("pattern"), condition.get("key")
    if condition.get("kind") != "event_match" or not isinstance(pattern, str) or not isinstance(key, str):
        return 1
    if not has_wildcards(pattern):
        return 1
    return 1 + (word_glob(pattern) if split_path(key) == BODY else glob(pattern)).steps(ORDINARY_BODY)


def _event_match(condition: Mapping[str, Any]) -> Test | None:
    key, pattern = condition.get("key"), condition.get("pattern")
    if not isinstance(key, str) or not isinstance(pattern, str):
        return None
    path, lower = split_path(key), pattern.lower()
    if path == BODY:
        return body_has(pattern)
    if not has_wildcards(lower):
        if path == TYPE:
            return lambda event, _: event.lower_type == lower
        return lambda event, _: event.lower_text(path) == lower
    whole = glob(lower)

    def test(event: PushEvent, _recipient: Recipient) -> bool:
        text = event.lower_text(path)
        return text is not None and event.spend(whole.steps(len(text))) and whole.matches(text)

    return test


def body_has(pattern: str) -> Test:
    """Return the test that content.body contains the pattern as words."""
    key = word_key(pattern)
    if key is not None:
        # A look into a set saves most rules the search, however many there are.
        return lambda event, _: key in event.word_keys() and _has_words(event, pattern)
    words = word_glob(pattern.lower())

    def test(event: PushEvent, _recipient: Recipient) -> bool:
        body = event.body()
        return body is not None and event.spend(words.steps(len(body.text))) and words.matches(body)

    return test


def _has_words(event: PushEvent, words: str) -> bool:
    """Return True if content.body contains these words. Stars and question marks have no special meaning."""
    body = event.body()
    if body is None:
        return False
    marked = mark_words(words.lower())
    return event.spend(search_steps(marked, len(body.text))) and body.has_words(marked)


def _event_property_is(condition: Mapping[str, Any]) -> Test | None:
    key, value = condition.get("key"), condition.get("value")
    if not isinstance(key, str) or "value" not in condition or not is_plain(value):
        return None
    path, kind = split_path(key), type(value)
    return lambda event, _: type(found := event.value(path)) is kind and bool(found == value)


def _event_property_contains(condition: Mapping[str, Any]) -> Test | None:
    key, value = condition.get("key"), condition.get("value")
    if not isinstance(key, str) or "value" not in condition or not is_plain(value):
        return None
    path = split_path(key)
    return lambda event, _: event.has_entry(path, value)


def is_plain(value: Any) -> bool:
    """Return True if a value may be compared: text, an integer, a boolean or null."""
    return value is None or isinstance(value, str | int)


def has_no_mentions(event: PushEvent, _recipient: Recipient) -> bool:
    """Return True for an event of a client that does not know `m.mentions`."""
    return event.value(("content", "m.mentions")) is ABSENT


def contains_user_name(event: PushEvent, recipient: Recipient) -> bool:
    """Return True if the local part of the recipient's user id is a word of the body."""
    return _contains(event, recipient.user_id.removeprefix("@").partition(":")[0])


def _contains(event: PushEvent, name: str) -> bool:
    return literal_key(name) in event.word_keys() and _has_words(event, name)


def _contains_display_name(_condition: Mapping[str, Any]) -> Test:
    return lambda event, recipient: _contains(event, recipient.display_name)


def _room_member_count(condition: Mapping[str, Any]) -> Test | None:
    wanted = condition.get("is")
    found = _MEMBER_COUNT_RE.fullmatch(wanted) if isinstance(wanted, str) else None
    if found is None:
        return None
    compare, number = _COMPARISONS[found[1]], int(found[2])
    return lambda event, _: compare(event.member_count, number)


def _sender_notification_permission(condition: Mapping[str, Any]) -> Test | None:
    key = condition.get("key")
    if not isinstance(key, str):
        return None
    return lambda event, _: event.levels.user_level(event.sender) >= event.levels.notification_level(key)


def _thread_subscription(condition: Mapping[str, Any]) -> Test | None:
    subscribed = condition.get("subscribed")
    if not isinstance(subscribed, bool):
        return None
    return lambda event, recipient: event.in_thread and recipient.subscribed is subscribed


_COMPILERS: Final[Mapping[str, Callable[[Mapping[str, Any]], Test | None]]] = {
    "event_match": _event_match,
    "event_property_is": _event_property_is,
    "event_property_contains": _event_property_contains,
    "contains_display_name": _contains_display_name,
    "room_member_count": _room_member_count,
    "sender_notification_permission": _sender_notification_permission,
    **dict.fromkeys(THREAD_SUBSCRIPTION, _thread_subscription),
}
KNOWN_CONDITIONS: Final = frozenset(_COMPILERS)
