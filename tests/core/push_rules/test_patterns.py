"""The specification's own examples. `tests/core/test_globs.py` has patterns made to take long."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.globs import SearchedText, word_glob
from shared.core.identifiers import RoomId, UserId
from shared.core.property_path import split_path
from shared.core.push_rules import PushEvent, Recipient, word_keys
from shared.core.push_rules.conditions import compile_condition
from shared.core.push_rules.patterns import word_key
from tests.core.push_rules.levels import default_levels

_LEVELS = default_levels()


def _matches(condition: dict[str, Any], content: Any, count: int = 1) -> bool:
    event = PushEvent({"type": "m.x", "sender": "@a:b", "content": content}, RoomId("!r:b"), count, _LEVELS)
    test = compile_condition(condition)
    return test is not None and test(event, Recipient(UserId("@me:x")))


@pytest.mark.parametrize(
    ("pattern", "value", "matches"),
    [
        ("lunc?*", "Lunch plans", True),
        ("lunc?*", "LUNCH", True),
        ("lunc?*", " lunch", False),
        ("lunc?*", "lunc", False),
        ("lunc?*", None, False),
        ("*", "", True),
        ("*", 5, False),
        ("", "", True),
        ("a*b\n", "A\nB\n", True),
        ("a.c", "abc", False),
    ],
)
def test_event_match_of_a_whole_value(pattern: str, value: Any, matches: bool) -> None:
    condition = {"kind": "event_match", "key": "content.topic", "pattern": pattern}
    assert _matches(condition, {"topic": value}) is matches
    assert not _matches(condition, {})


@pytest.mark.parametrize(
    ("pattern", "body", "matches"),
    [
        ("ex*ple", "An example event.", True),
        ("ex*ple", "exple", True),
        ("ex*ple", "An exciting triple-whammy", True),
        ("ex*ple", "An examples", False),
        ("cake", "Cake!", True),
        ("cake", "cakes", False),
        ("cake", "a_cake", False),
        ("c++", "c++11, c+", True),
        ("日本", "私は日本人", True),
        ("", "anything", True),
        ("x", None, False),
    ],
)
def test_event_match_of_words_in_the_body(pattern: str, body: Any, matches: bool) -> None:
    assert _matches({"kind": "event_match", "key": "content.body", "pattern": pattern}, {"body": body}) is matches


@pytest.mark.parametrize(
    ("value", "wanted", "matches"),
    [(True, True, True), ("true", True, False), (1, True, False), (1, 1, True), (None, None, True), ([1], 1, False)],
)
def test_event_property_is_exact(value: Any, wanted: Any, matches: bool) -> None:
    condition = {"kind": "event_property_is", "key": r"content.m\.federate", "value": wanted}
    assert _matches(condition, {"m.federate": value}) is matches
    assert not _matches(condition, {"m": {"federate": value}})
    listed = {"kind": "event_property_contains", "key": r"content.m\.list", "value": wanted}
    assert _matches(listed, {"m.list": ["x", value]}) is matches
    assert not _matches(listed, {"m.list": value if not isinstance(value, list) else "x"})


@pytest.mark.parametrize(
    ("is_", "counts"),
    [("2", {2}), ("==2", {2}), ("<2", {1}), ("<=2", {1, 2}), (">2", {3}), (">=2", {2, 3}), ("=2", ()), ("2 ", ())],
)
def test_room_member_count(is_: str, counts: Any) -> None:
    condition = {"kind": "room_member_count", "is": is_}
    assert {count for count in (1, 2, 3) if _matches(condition, {}, count)} == set(counts)


def test_server_only_keys_are_no_properties() -> None:
    event = {"type": "m.x", "sender": "@a:b", "content": {}, "origin": "b", "unsigned": {"age": 1}}
    judged = PushEvent(event, RoomId("!r:b"), 1, _LEVELS)
    for key, matches in (("origin", False), ("unsigned.age", False), ("room_id", True), ("sender", True)):
        test = compile_condition({"kind": "event_match", "key": key, "pattern": "*"})
        assert test is not None and test(judged, Recipient(UserId("@me:x"))) is matches


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("content.body", ("content", "body")),
        (r"content.m\.relates_to", ("content", "m.relates_to")),
        (r"content.m\\foo", ("content", r"m\foo")),
        (r"a\x.b", (r"a\x", "b")),
        ("", ("",)),
        ("a..", ("a", "", "")),
        ("a\\", ("a\\",)),
    ],
)
def test_property_paths(path: str, names: tuple[str, ...]) -> None:
    assert split_path(path) == names


@given(st.text(alphabet="aB_ ß-İ日", max_size=8), st.text(alphabet="aB_ ß-İ日", min_size=1, max_size=3))
def test_plain_pattern_matches_only_texts_with_its_key(text: str, pattern: str) -> None:
    if word_glob(pattern.lower()).matches(SearchedText(text.lower())) and (key := word_key(pattern)) is not None:
        assert key in word_keys(text)
