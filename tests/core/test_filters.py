"""Spec: client-server API, "Filtering"; appendices, "Dot-separated property paths"."""

import fnmatch
import re
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.errors import MatrixError
from shared.core.filters import EventFilter, Filter, parse_filter, parse_room_event_filter
from shared.core.filters.wildcard import type_patterns
from shared.core.identifiers import RoomId, UserId
from shared.core.property_path import split_path
from tests.core import json_values
from tests.core.spec_vectors import VECTORS


def test_empty_filter_passes_all_events() -> None:
    assert parse_filter({}) == Filter()
    assert parse_filter({"org.example.unknown": 1}) == Filter()
    assert Filter().room.timeline.passes_all and Filter().room.timeline.match(
        type="x", sender=UserId("@a:b"), room_id=RoomId("!r:d")
    )


def test_full_filter_is_parsed() -> None:
    event_filter = {
        "limit": 5,
        "types": ["m.*"],
        "not_types": ["m.room.*"],
        "senders": ["@a:d"],
        "not_senders": ["@b:d"],
    }
    room_event_filter = event_filter | {
        "rooms": ["!r:d"],
        "not_rooms": ["!s:d"],
        "contains_url": True,
        "lazy_load_members": True,
        "include_redundant_members": True,
        "unread_thread_notifications": True,
    }
    parsed = parse_filter(
        {
            "event_fields": ["type", "content.body"],
            "event_format": "federation",
            "presence": event_filter,
            "account_data": event_filter,
            "room": {
                "rooms": ["!r:d", "!s:d"],
                "not_rooms": ["!s:d"],
                "include_leave": True,
                "timeline": room_event_filter,
                "state": room_event_filter,
                "ephemeral": room_event_filter,
                "account_data": room_event_filter,
            },
        }
    )
    assert parsed.event_fields == (("type",), ("content", "body")) and parsed.federation_format
    assert parsed.presence == parsed.account_data and parsed.presence.limit == 5
    assert parsed.room.include_leave and parsed.room.match_room(RoomId("!r:d"))
    assert not parsed.room.match_room(RoomId("!s:d")) and not parsed.room.match_room(RoomId("!t:d"))
    timeline = parsed.room.timeline
    assert timeline == parsed.room.state == parsed.room.ephemeral == parsed.room.account_data
    assert timeline == parse_room_event_filter(room_event_filter)
    assert timeline.lazy_load_members and timeline.include_redundant_members and timeline.unread_thread_notifications
    good: dict[str, Any] = {"type": "m.x", "sender": "@a:d", "room_id": "!r:d", "content": {"url": "u"}}
    assert timeline.match(**good) and not timeline.passes_all
    changes: list[dict[str, Any]] = [
        {"type": "m.room.x"},
        {"type": "x"},
        {"sender": "@b:d"},
        {"sender": "@c:d"},
        {"room_id": "!s:d"},
        {"room_id": "!t:d"},
        {"content": {}},
        {"content": None},
    ]
    for change in changes:
        assert not timeline.match(**good | change)


def test_exclusion_wins_and_empty_lists_match_nothing() -> None:
    assert not parse_room_event_filter({"senders": ["@a:d"], "not_senders": ["@a:d"]}).match(
        type="x", sender=UserId("@a:d")
    )
    assert not parse_room_event_filter({"types": []}).match(type="x")
    assert parse_room_event_filter({"not_types": []}).match(type="x")
    assert not parse_room_event_filter({"contains_url": False}).match(type="x", content={"url": 1})
    assert parse_room_event_filter({"limit": 0}).limit == 0
    assert EventFilter(senders=frozenset()).match(type="m.tag")  # account data has no sender


_FLAGS = ["contains_url", "lazy_load_members", "include_redundant_members", "unread_thread_notifications"]
_NO_LISTS: list[Any] = ["x", 1, {}, None, [1], ["x", None]]
_NO_LIMITS: list[Any] = [-1, 1.0, "1", True, None, 2**31]
_LIST_KEYS = ["types", "not_types", "senders", "not_senders", "rooms", "not_rooms"]


@pytest.mark.parametrize(
    "broken",
    [{key: value} for key in _LIST_KEYS for value in _NO_LISTS]
    + [{"senders": ["a"]}, {"rooms": ["#a:d"]}, {"types": ["x"] * 1001}, {"types": ["x" * 513]}]
    + [{"limit": value} for value in _NO_LIMITS]
    + [{key: 1} for key in _FLAGS],
)
def test_broken_event_filters_are_refused(broken: dict[str, Any]) -> None:
    for whole in ({"presence": broken}, {"room": {"timeline": broken}}):
        with pytest.raises(MatrixError) as caught:
            parse_filter(whole)
        assert (caught.value.errcode, caught.value.status) == ("M_BAD_JSON", 400)


@pytest.mark.parametrize(
    "broken",
    [
        None,
        [],
        "x",
        {"room": []},
        {"room": {"rooms": "!a:d"}},
        {"room": {"include_leave": 1}},
        {"room": {"state": []}},
        {"event_fields": "x"},
        {"event_fields": [1]},
        {"event_format": "xml"},
        {"event_format": []},
        {"presence": None},
        {"event_fields": ["x"] * 101},
        {"room": {"timeline": {"types": ["*a" * 101, "*b" * 100]}}},
    ],
)
def test_broken_filters_are_refused(broken: Any) -> None:
    with pytest.raises(MatrixError) as caught:
        parse_filter(broken)
    assert caught.value.errcode == "M_BAD_JSON"


@given(
    json_values.any_values
    | st.dictionaries(st.sampled_from(["room", "presence", "event_fields", "event_format"]), json_values.any_values)
)
def test_parse_raises_only_the_declared_error(obj: Any) -> None:
    try:
        parse_filter(obj)
    except MatrixError as error:
        assert error.errcode == "M_BAD_JSON"


@given(st.lists(st.text("ab*.", max_size=6), max_size=3), st.text("ab.*", max_size=8))
def test_wildcards_match_like_globs(patterns: list[str], event_type: str) -> None:
    expected = any(re.fullmatch(fnmatch.translate(p.replace("[", "[[]")), event_type) for p in patterns)
    assert type_patterns(tuple(patterns)).match(event_type) is expected


def test_wildcards_match_in_linear_time() -> None:
    assert not type_patterns(("*a" * 200 + "b",)).match("a" * 255)


def test_judging_a_type_with_the_largest_filter_is_bounded() -> None:
    """Two hundred searches in 255 characters at most, and none for a type that was judged before."""
    filter = parse_room_event_filter({"types": [f"{'*a' * 20}b{n}" for n in range(10)], "not_types": ["**********"]})
    assert filter.types is not None
    assert filter.not_types is not None
    assert not filter.types.match("a" * 255)
    assert filter.types._known == {"a" * 255: False}
    for number in range(1_000):
        assert not filter.match(type=f"{'a' * 250}{number}")
    assert len(filter.types._known) <= 50


@pytest.mark.parametrize("case", VECTORS["dotted_paths"]["cases"] + VECTORS["dotted_paths"]["derived_cases"])
def test_dotted_paths_of_the_spec(case: dict[str, Any]) -> None:
    assert list(split_path(case["path"])) == case["keys"]


def test_hostile_type_patterns_are_quick() -> None:
    """A run of stars is one star, and a list has at most two hundred of them."""
    stars = type_patterns(tuple(f"{'*' * 500}{number}" for number in range(200)))
    letters = type_patterns(tuple("a*" * 20 + str(number) for number in range(10)))
    for patterns in (stars, letters):
        began = time.thread_time()
        for number in range(100):
            assert not patterns.match(f"m.room.message{number:03}x")
        assert time.thread_time() - began < 0.1
    with pytest.raises(MatrixError, match="at most 200 wildcards"):
        type_patterns(tuple(f"*{number}" for number in range(201)))
