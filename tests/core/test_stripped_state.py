"""Spec: client-server API, "Stripped state"; server-server API, "Inviting to a room"."""

from typing import Any

import pytest

from shared.core.wire.stripped_state import strip_event, strip_received, stripped_state, stripped_state_keys
from tests.core.rooms import ALICE, BOB, CAROL, VERSIONS, Room

KEYS = {"content", "sender", "state_key", "type"}


def _room(name: str) -> Room:
    room = Room(name)
    room.join_rule("invite")
    for event_type in ("m.room.topic", "m.room.name", "m.room.avatar", "m.room.encryption", "m.room.canonical_alias"):
        room.force(event_type, ALICE, {"of": event_type}, "")
    room.power_levels()
    room.force("m.room.name", ALICE, {}, "other")
    room.member(CAROL, "join")
    room.member(BOB, "invite")
    return room


@pytest.mark.parametrize("name", VERSIONS)
def test_clients_get_four_keys_of_the_listed_state(name: str) -> None:
    room = _room(name)
    shown = stripped_state(room.state, ALICE, BOB)
    assert [(event["type"], event["state_key"]) for event in shown] == [
        ("m.room.create", ""),
        ("m.room.name", ""),
        ("m.room.avatar", ""),
        ("m.room.topic", ""),
        ("m.room.join_rules", ""),
        ("m.room.canonical_alias", ""),
        ("m.room.encryption", ""),
        ("m.room.member", ALICE),
        ("m.room.member", BOB),
    ]
    for event in shown:
        original = room.state[event["type"], event["state_key"]]
        assert set(event) == KEYS
        assert (event["content"], event["sender"]) == (original.content, original.sender)


@pytest.mark.parametrize("name", VERSIONS)
def test_servers_get_whole_pdus(name: str) -> None:
    room = _room(name)
    pdus = stripped_state(room.state, ALICE, as_pdus=True)
    assert pdus == [room.state[key].pdu for key in stripped_state_keys(ALICE)]
    assert all({"signatures", "hashes", "auth_events", "depth"} <= pdu.keys() for pdu in pdus)
    assert strip_received(pdus) == stripped_state(room.state, ALICE)


def test_absent_state_is_left_out() -> None:
    room = Room("12")
    assert [event["type"] for event in stripped_state(room.state)] == ["m.room.create"]
    assert stripped_state({}, ALICE) == []


def test_knocking_user_is_listed_once() -> None:
    assert stripped_state_keys(BOB, BOB).count(("m.room.member", BOB)) == 1


def test_received_stripped_state_is_pruned() -> None:
    name = {"type": "m.room.name", "state_key": "", "sender": ALICE, "content": {"name": "n"}}
    odd: list[Any] = [None, 1, "m.room.name", [], {}, name | {"content": []}, name | {"sender": 1}]
    odd += [{key: value for key, value in name.items() if key != missing} for missing in name]
    pdu = name | {"unsigned": {"secret": 1}, "event_id": "$e", "more": {}}
    assert strip_received([*odd, pdu, *odd]) == [name]
    assert strip_event(pdu) == name
    assert len(strip_received([name] * 1000)) == 100
