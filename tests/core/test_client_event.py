"""Spec: client-server API, "Room event format"; rooms/v11, "Moving the redacts property"."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import ROOM_VERSIONS
from shared.core.wire.client_event import client_body, client_fields, join_client_event, redacted_fields
from tests.core import json_values
from tests.core.rooms import ALICE, VERSIONS, Room


def _plain(event: Any, room_id: RoomId | None, unsigned: dict[str, Any] | None) -> dict[str, Any]:
    plain = {key: event.pdu[key] for key in ("content", "origin_server_ts", "sender", "type")}
    plain["event_id"] = event.event_id
    if "state_key" in event.pdu:
        plain["state_key"] = event.pdu["state_key"]
    if room_id is not None:
        plain["room_id"] = room_id
    if unsigned is not None:
        plain["unsigned"] = unsigned
    return plain


_rooms = {name: Room(name) for name in VERSIONS}


@given(
    st.sampled_from(VERSIONS),
    json_values.strict_objects,
    st.none() | json_values.texts,
    st.none() | json_values.texts,
    st.none() | json_values.strict_objects,
)
def test_joined_bytes_equal_a_plain_build(
    name: str, content: dict[str, Any], state_key: str | None, room_id: RoomId | None, unsigned: dict[str, Any] | None
) -> None:
    room = _rooms[name]
    event = room.make("m.any", ALICE, content, state_key)
    encoded = None if unsigned is None else json.dumps(unsigned).encode()
    joined = join_client_event(client_body(event, room.version), room_id=room_id, unsigned=encoded)
    assert json.loads(joined) == _plain(event, room_id, unsigned)


@pytest.mark.parametrize("name", VERSIONS)
def test_redacts_is_in_both_places(name: str) -> None:
    room = _rooms[name]
    event = room.make("m.room.redaction", ALICE, {"reason": "r"}, redacts=EventId("$t:d"))
    body = json.loads(client_body(event, room.version))
    assert body["redacts"] == body["content"]["redacts"] == "$t:d"
    assert body["content"]["reason"] == "r"
    assert body == json.loads(json.dumps(client_fields(event, room.version)))


def test_huge_integers_of_old_rooms_are_kept() -> None:
    room = _rooms["1"]
    event = room.make("m.any", ALICE, {"n": 2**70})
    assert json.loads(client_body(event, ROOM_VERSIONS["1"]))["content"] == {"n": 2**70}


@pytest.mark.parametrize("name", VERSIONS)
def test_redaction_leaves_the_keys_of_the_version(name: str) -> None:
    room = _rooms[name]
    member = room.make("m.room.member", ALICE, {"membership": "join", "displayname": "A"}, ALICE)
    assert redacted_fields(client_fields(member, room.version), room.version) == {
        **client_fields(member, room.version),
        "content": {"membership": "join"},
    }
    message = room.make("m.room.message", ALICE, {"body": "b", "redacts": "$t:d"})
    assert redacted_fields(client_fields(message, room.version), room.version)["content"] == {}


@pytest.mark.parametrize("name", VERSIONS)
def test_redacts_of_a_redacted_redaction_is_in_both_places_or_in_none(name: str) -> None:
    room = _rooms[name]
    event = room.make("m.room.redaction", ALICE, {"reason": "r"}, redacts=EventId("$t:d"))
    left = redacted_fields(client_fields(event, room.version), room.version)
    kept = {"redacts": "$t:d"} if int(name) >= 11 else {}
    assert left["content"] == kept
    assert {key: left[key] for key in ("redacts",) if key in left} == kept
