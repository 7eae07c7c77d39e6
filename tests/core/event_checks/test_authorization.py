"""Checks 4 to 6. Spec: server-server API, "Checks performed on receipt of a PDU" (4 to 6), "Auth events selection",
"Rejection", "Soft failure"; rooms/v1, rule 2; rooms/v12, rules 2 and 3.

The rules themselves have their own tests. These test the state in which they are checked, and the effect of a failure.
"""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.core.event_checks import (
    Outcome,
    Verdict,
    check_auth_events_of,
    check_current_state,
    check_state_before,
)
from shared.core.events import Event
from shared.core.events.readers import power_levels_of
from shared.core.identifiers import EventId, RoomId
from tests.core.event_checks.signed import changed
from tests.core.rooms import ALICE, BOB, CAROL, VERSIONS, Room, versions_where


def auth_events_rule(room: Room, number: str) -> str:
    """The rule's number on the page of this room version."""
    return f"{3 if room.version.room_id_is_create_hash else 2}.{number} auth_events"


def check_4(room: Room, event: Event, *, rejected: tuple[EventId, ...] = (), events: Any = None) -> Verdict:
    known = room.events if events is None else events
    return check_auth_events_of(room.version, event, known, rejected=rejected, create=room.create)


def rejects(rule: str, verdict: Verdict, check: int = 4) -> None:
    assert (verdict.outcome, verdict.check, verdict.rule) == (Outcome.REJECT, check, rule)
    assert verdict.reason and not verdict.passed


def joined_room(name: str) -> Room:
    """Alice, and Bob who joined while the room was public."""
    room = Room(name)
    room.power_levels()
    room.join_rule("public")
    room.add("m.room.member", BOB, {"membership": "join"}, BOB)
    return room


def citing(room: Room, event: Event, *auth_events: Event) -> Event:
    """Return the event with these auth events in place of its own."""
    entries: list[Any] = [auth_event.event_id for auth_event in auth_events]
    if room.version.references_with_hashes:
        entries = [[event_id, {"sha256": ""}] for event_id in entries]
    return changed(room.version, event, auth_events=entries)


# --- check 4: the auth events --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_4_accepts_allowed_events(name: str) -> None:
    room = joined_room(name)
    assert check_4(room, room.create).passed
    for event in (*room.events[1:], room.make("m.room.message", BOB, {})):
        assert check_4(room, event) == Verdict(Outcome.ACCEPT, 4)


@pytest.mark.parametrize("name", VERSIONS)
def test_4_rejects_duplicate_auth_events(name: str) -> None:
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    cited = [known for known in room.events if known.event_id in event.auth_event_ids]
    rejects(auth_events_rule(room, "1"), check_4(room, citing(room, event, *cited, cited[-1])))


@pytest.mark.parametrize("name", VERSIONS)
def test_4_rejects_auth_events_outside_the_selection(name: str) -> None:
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    cited = [known for known in room.events if known.event_id in event.auth_event_ids]
    rules = room.state["m.room.join_rules", ""]
    rejects(auth_events_rule(room, "2"), check_4(room, citing(room, event, *cited, rules)))
    rejects(auth_events_rule(room, "2"), check_4(room, citing(room, event, *cited, room.force("m.room.name", BOB, {}))))


@pytest.mark.parametrize("name", VERSIONS)
def test_4_rejects_event_with_rejected_auth_event(name: str) -> None:
    """Events permitted by a rejected event are rejected in turn, whatever that event's content is."""
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    levels, rules = room.state["m.room.power_levels", ""], room.state["m.room.join_rules", ""]
    rejects(auth_events_rule(room, "3"), check_4(room, event, rejected=(levels.event_id,)))
    assert check_4(room, event, rejected=(rules.event_id,)).passed  # not one of its auth events


@pytest.mark.parametrize("name", VERSIONS)
def test_4_requires_the_create_event_by_version(name: str) -> None:
    """It is among the auth events up to version 11. From 12 on the room id implies it, and it must not be named."""
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    cited = [known for known in room.events if known.event_id in event.auth_event_ids and known != room.create]
    if room.version.create_in_auth_events:
        rejects(auth_events_rule(room, "4"), check_4(room, citing(room, event, *cited)))
        rejects(auth_events_rule(room, "3"), check_4(room, event, rejected=(room.create.event_id,)))
    else:
        rejects(auth_events_rule(room, "2"), check_4(room, citing(room, event, *cited, room.create)))
        rejects("2 room_id", check_4(room, event, rejected=(room.create.event_id,)))


@pytest.mark.parametrize("name", VERSIONS)
def test_4_rejects_auth_events_of_another_room(name: str) -> None:
    room, other = joined_room(name), Room(name, {"other": 1})
    if not room.version.room_id_is_create_hash:
        other.room_id = RoomId("!other:a.example")
    stranger = other.make("m.room.member", BOB, {"membership": "join"}, BOB)
    event = room.make("m.room.message", BOB, {})
    create = [room.create] if room.version.create_in_auth_events else []
    forged = citing(room, event, *create, stranger)
    rejects(auth_events_rule(room, "5"), check_4(room, forged, events=[*room.events, stranger]))


@pytest.mark.parametrize("name", versions_where(room_id_is_create_hash=False))
def test_4_rejects_second_create_event(name: str) -> None:
    """No rule forbids a second create event under the same room id, but it would bring another creator."""
    room = joined_room(name)
    second = room.make("m.room.create", ALICE, {"creator": ALICE, "room_version": name, "again": 1}, "", prev=[])
    rejects("1 create", check_4(room, second))
    join = changed(room.version, room.make("m.room.member", ALICE, {"membership": "join"}, ALICE, prev=[second]))
    rejects(auth_events_rule(room, "4"), check_4(room, citing(room, join, second), events=[*room.events, second]))
    unknown = {"creator": ALICE, "room_version": "no such"}
    rejects("1.3 create", check_4(room, room.make("m.room.create", ALICE, unknown, "", prev=[])))


@pytest.mark.parametrize("name", VERSIONS)
def test_4_drops_event_with_unknown_auth_events(name: str) -> None:
    """The event cannot be checked, which is no reason to reject it for ever."""
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    levels = room.state["m.room.power_levels", ""]
    verdict = check_4(room, event, events=[known for known in room.events if known != levels])
    assert (verdict.outcome, verdict.check, verdict.reason) == (Outcome.DROP, 4, "1 of the auth events are unknown")


@pytest.mark.parametrize("name", VERSIONS)
def test_4_checks_the_rules_in_the_state_of_the_auth_events(name: str) -> None:
    """An event that cites too little is checked by what it cites."""
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    without_bob = [known for known in room.events if known.event_id in event.auth_event_ids and known.state_key != BOB]
    verdict = check_4(room, citing(room, event, *without_bob))
    assert verdict.outcome is Outcome.REJECT and verdict.rule.endswith(" joined")
    join = room.make("m.room.member", CAROL, {"membership": "join"}, CAROL)
    rules = room.state["m.room.join_rules", ""]
    closed = [known for known in room.events if known.event_id in join.auth_event_ids and known != rules]
    verdict = check_4(room, citing(room, join, *closed))
    assert verdict.outcome is Outcome.REJECT and verdict.rule.endswith(" member/join")
    room.join_rule("invite")  # the current state does not matter here
    assert check_4(room, join).passed


@given(st.sampled_from(VERSIONS), st.data())
def test_4_removing_auth_events_never_improves_the_verdict(name: str, data: st.DataObject) -> None:
    """All events of Bob need a membership event. With an auth event missing they are dropped, never accepted."""
    room = joined_room(name)
    event = room.make("m.room.message", BOB, {})
    cited = [known for known in room.events if known.event_id in event.auth_event_ids]
    rest = data.draw(st.lists(st.sampled_from(cited), unique=True, max_size=len(cited)))
    needed = {("m.room.member", BOB), *([("m.room.create", "")] if room.version.create_in_auth_events else [])}
    verdict = check_4(room, citing(room, event, *rest))
    assert verdict.passed is (needed <= {(known.type, known.state_key) for known in rest})
    assert verdict.passed or verdict.outcome is Outcome.REJECT
    assert check_4(room, event, events=rest).outcome is (Outcome.ACCEPT if len(rest) == len(cited) else Outcome.DROP)


# --- checks 5 and 6 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERSIONS)
def test_5_and_6_check_the_given_state(name: str) -> None:
    """The spec's example: X was banned, and X's server sends an event that follows an event before the ban."""
    room = joined_room(name)
    before = dict(room.state)
    topic = room.make("m.room.message", BOB, {"body": "I was never banned"})
    room.add("m.room.member", ALICE, {"membership": "ban"}, BOB)
    assert check_4(room, topic).passed
    assert check_state_before(room.version, topic, before, room.create) == Verdict(Outcome.ACCEPT, 5)
    verdict = check_current_state(room.version, topic, room.state, room.create)
    assert (verdict.outcome, verdict.check) == (Outcome.SOFT_FAIL, 6)
    assert verdict.rule.endswith(" joined") and "not in the room" in verdict.reason
    rejects(verdict.rule, check_state_before(room.version, topic, room.state, room.create), check=5)
    assert check_current_state(room.version, topic, before, room.create) == Verdict(Outcome.ACCEPT, 6)


@pytest.mark.parametrize("name", VERSIONS)
def test_5_and_6_accept_stubs_for_other_users(name: str) -> None:
    """Only `content.membership` is read of memberships in the state."""
    room = joined_room(name)
    kick = room.make("m.room.member", ALICE, {"membership": "leave"}, BOB)
    state = {key: _stub(event) if key[0] == "m.room.member" else event for key, event in room.state.items()}
    assert check_state_before(room.version, kick, state, room.create).passed
    assert check_current_state(room.version, kick, state, room.create).passed
    del state["m.room.member", ALICE]
    rejects_by = check_state_before(room.version, kick, state, room.create)
    assert rejects_by.outcome is Outcome.REJECT and rejects_by.rule.endswith(" member/leave")


def _stub(member: Event) -> Event:
    return Event(
        event_id=EventId(member.event_id),
        room_id=member.room_id,
        type="m.room.member",
        sender=member.sender,
        state_key=member.state_key,
        content={"membership": member.content["membership"]},
        depth=0,
        origin_server_ts=0,
        prev_event_ids=(),
        auth_event_ids=(),
        redacts=None,
        pdu={},
        encoded=b"",
    )


@pytest.mark.parametrize("name", VERSIONS)
def test_5_and_6_use_the_given_levels(name: str) -> None:
    room = joined_room(name)
    topic = room.make("m.room.topic", BOB, {"topic": "t"}, "")
    assert check_state_before(room.version, topic, room.state, room.create).outcome is Outcome.REJECT
    mild = power_levels_of(room.version, room.create, room.make("m.room.power_levels", ALICE, {"state_default": 0}, ""))
    assert check_state_before(room.version, topic, room.state, room.create, power_levels=mild).passed
    assert check_current_state(room.version, topic, room.state, room.create, power_levels=mild).passed


def test_reasons_are_short() -> None:
    """The rules quote keys of the event, which may have thousands of characters."""
    room = joined_room("11")
    event = room.make("m.room.power_levels", ALICE, {"events": {"x" * 5000: 101}, "users": {ALICE: 100}}, "")
    verdict = check_state_before(room.version, event, room.state, room.create)
    assert verdict.outcome is Outcome.REJECT and len(verdict.reason) == 200 and verdict.reason.endswith("…")
