"""Readers of state events. Spec: client-server API, "m.room.power_levels" and its neighbours; rooms/v1, v10, v12."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.events import readers
from shared.core.events.readers.power_levels import read_level
from shared.core.room_versions import ROOM_VERSIONS
from tests.core import json_values
from tests.core.rooms import ALICE, BOB, CAROL, VERSIONS, Room, versions_where
from tests.core.spec_vectors import VECTORS


@pytest.mark.parametrize("name", VERSIONS)
def test_string_levels_by_version(name: str) -> None:
    version = ROOM_VERSIONS[name]
    for text, level in VECTORS["power_level_strings"]["accept"].items():
        assert read_level(version, text) == (None if version.integer_power_levels else level)
    for text in [*VECTORS["power_level_strings"]["derived_reject"], "1_000", "٣", "9" * 5000]:
        assert read_level(version, text) is None


@pytest.mark.parametrize("name", VERSIONS)
def test_float_levels_by_version(name: str) -> None:
    version = ROOM_VERSIONS[name]
    for case in VECTORS["power_level_floats"]["cases"]:
        assert read_level(version, json.loads(case["in"])) == (case["out"] if version.float_power_levels else None)
    for text in VECTORS["power_level_floats"]["reject"]:
        assert read_level(version, json.loads(text)) is None
    assert read_level(version, True) is None


@pytest.mark.parametrize("name", VERSIONS)
def test_default_levels(name: str) -> None:
    room = Room(name)
    defaults = VECTORS["power_level_defaults"]
    for event in (None, room.power_levels(users={}), room.power_levels(users=[], ban=[], events="x", notifications=1)):
        levels = readers.power_levels_of(room.version, room.create, event)
        for field in ("ban", "kick", "redact", "invite", "state_default", "events_default", "users_default"):
            assert getattr(levels, field) == defaults[field]
        assert levels.notification_level("room") == defaults["notifications.room"]
        assert (levels.event_level("x", True), levels.event_level("x", False)) == (50, 0)
        assert levels.user_level(BOB) == 0
        if room.version.creators_outrank_all:
            assert levels.user_level(ALICE) == readers.INFINITE_POWER
        else:
            assert levels.user_level(ALICE) == (100 if event is None else 0)


def test_power_levels_of_the_event() -> None:
    room = Room("11")
    event = room.power_levels(
        users={ALICE: 100, BOB: 7}, users_default=3, events={"t": 9}, notifications={"room": 20}, events_default=4
    )
    levels = readers.power_levels_of(room.version, room.create, event)
    assert (levels.user_level(BOB), levels.user_level(CAROL)) == (7, 3)
    assert (levels.event_level("t", True), levels.event_level("t", False), levels.event_level("u", False)) == (9, 9, 4)
    assert levels.notification_level("room") == 20


@pytest.mark.parametrize("name", versions_where(additional_creators=True))
def test_creators_by_version(name: str) -> None:
    room = Room(name, {"additional_creators": [BOB]})
    assert readers.creators_of(room.version, room.create) == {ALICE, BOB}
    assert readers.room_creator(room.version, room.create) == ALICE


@given(
    st.sampled_from(VERSIONS),
    json_values.strict_objects
    | st.dictionaries(
        st.sampled_from(
            [
                "users",
                "events",
                "ban",
                "membership",
                "join_rule",
                "allow",
                "creator",
                "additional_creators",
                "room_version",
                "m.federate",
                "type",
                "history_visibility",
                "displayname",
                "avatar_url",
            ]
        ),
        json_values.strict_values,
    ),
)
def test_readers_never_fail(name: str, content: dict[str, Any]) -> None:
    room = Room(name)
    event = room.make("m.any", ALICE, content, "")
    readers.power_levels_of(room.version, event, event)
    readers.creators_of(room.version, event)
    readers.federates(event)
    assert isinstance(readers.room_version_name(event), str)
    assert isinstance(readers.room_type(event), str | None)
    assert isinstance(readers.membership_of(event), str | None)
    assert isinstance(readers.join_rule_of(event), str)
    assert all(isinstance(room_id, str) for room_id in readers.allowed_rooms(event))
    assert isinstance(readers.history_visibility_of(event), readers.HistoryVisibility)
    for read in (readers.display_name_of, readers.avatar_url_of, readers.authorising_user):
        assert isinstance(read(event), str | None)


def test_readers_of_absent_events() -> None:
    assert readers.membership_of(None) is None
    assert readers.join_rule_of(None) == "invite"
    assert readers.allowed_rooms(None) == ()
    assert readers.history_visibility_of(None) == "shared"
