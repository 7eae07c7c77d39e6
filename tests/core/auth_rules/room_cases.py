"""Cases of the rules about create events, auth events, federation and aliases."""

from typing import Any

from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId, UserId
from tests.core.auth_rules.case import Attempt, case
from tests.core.rooms import ALICE, BOB, DAVE, Room


def _create(version: str, content: dict[str, Any], sender: UserId = ALICE, *, has_prev: bool = False) -> Attempt:
    """A create event with a creator and without a room id, as far as the version requires that."""
    room = Room(version)
    if room.version.room_id_is_create_hash:
        room.room_id = None
    prev = [room.create] if has_prev else []
    return Attempt(room, room.make("m.room.create", sender, content, "", prev=prev))


@case("create.prev_events")
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {"creator": ALICE}, has_prev=broken)


@case("create.room_id", last=11)
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {"creator": ALICE}, BOB if broken else ALICE)


@case("create.room_id", first=12)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    if not broken:
        room.room_id = None
    event = room.make("m.room.create", ALICE, {}, "", prev=[])
    assert ("room_id" in event.pdu) is broken
    return Attempt(room, event)


@case("create.room_version")
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {"creator": ALICE, "room_version": "no such" if broken else version})


@case("create.room_version")
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {"creator": ALICE, **({"room_version": None} if broken else {})})


@case("create.creator", last=10)
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {} if broken else {"creator": ALICE})


def _additional_creators(value: Any) -> None:
    @case("create.additional_creators", first=12)
    def _(version: str, broken: bool) -> Attempt:
        return _create(version, {"additional_creators": value if broken else [BOB]})


_NO_CREATORS: tuple[Any, ...] = ("@a:d", [1], ["bob"], [BOB, "bob"], {}, None)
for _value in _NO_CREATORS:
    _additional_creators(_value)


@case("create.otherwise", denied_by=None)
def _(version: str, broken: bool) -> Attempt:
    return _create(version, {"creator": ALICE})


def _message(room: Room, *auth_events: Event, rejected: tuple[EventId, ...] = ()) -> Attempt:
    """A message of Alice's that names these auth events and, if needed, the create event."""
    create = [room.create] if room.version.create_in_auth_events else []
    return Attempt(room, room.make("m.room.message", ALICE, {}), [*create, *auth_events], rejected)


@case("auth_events.duplicate")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    before = room.state["m.room.member", ALICE]
    after = room.add("m.room.member", ALICE, {"membership": "join", "displayname": "Alice"}, ALICE)
    return _message(room, after, *([before] if broken else []))


@case("auth_events.selection")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    levels, topic = room.power_levels(), room.add("m.room.topic", ALICE, {}, "")
    return _message(room, room.state["m.room.member", ALICE], topic if broken else levels)


@case("auth_events.selection", first=12)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    return _message(room, room.state["m.room.member", ALICE], *([room.create] if broken else []))


@case("auth_events.rejected")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    alice = room.state["m.room.member", ALICE]
    return _message(room, alice, rejected=(alice.event_id,) if broken else (EventId("$another"),))


@case("auth_events.create", last=11)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    attempt = _message(room, room.state["m.room.member", ALICE])
    return Attempt(room, attempt.event, [e for e in attempt.auth_events or () if not broken or e is not room.create])


def _other_room(version: str) -> Room:
    other = Room(version, {"other": True})
    if not other.version.room_id_is_create_hash:
        other.room_id = RoomId("!other:a.example")
    return other


@case("auth_events.room")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    source = _other_room(version) if broken else room
    return _message(room, source.make("m.room.member", ALICE, {"membership": "join"}, ALICE))


@case("auth_events.room", last=11)
def _(version: str, broken: bool) -> Attempt:
    """The auth events match the event, but the state in which it is checked is another room's."""
    room = Room(version)
    source = _other_room(version) if broken else room
    message = source.make("m.room.message", ALICE, {})
    create = source.make("m.room.create", ALICE, {"creator": ALICE}, "", prev=[])
    return Attempt(room, message, [create, source.make("m.room.member", ALICE, {"membership": "join"}, ALICE)])


@case("room_id", first=12)
def _(version: str, broken: bool) -> Attempt:
    room = Room(version)
    source = _other_room(version) if broken else room
    return Attempt(room, source.make("m.room.message", ALICE, {}), [])


@case("federate")
def _(version: str, broken: bool) -> Attempt:
    room = Room(version, {"m.federate": not broken})
    room.join_rule("public")
    return Attempt(room, room.make("m.room.member", BOB, {"membership": "join"}, BOB))


@case("federate")
def _(version: str, broken: bool) -> Attempt:
    """Users of the creator's server may."""
    room = Room(version, {"m.federate": False})
    room.join_rule("public")
    user = BOB if broken else DAVE
    return Attempt(room, room.make("m.room.member", user, {"membership": "join"}, user))


def _aliases(version: str, state_key: str | None) -> Attempt:
    """Sent by Bob, who is not in the room."""
    room = Room(version)
    return Attempt(room, room.make("m.room.aliases", BOB, {}, state_key))


@case("aliases.state_key", last=5)
def _(version: str, broken: bool) -> Attempt:
    return _aliases(version, None if broken else "b.example")


@case("aliases.server", last=5)
def _(version: str, broken: bool) -> Attempt:
    return _aliases(version, "a.example" if broken else "b.example")


@case("aliases.otherwise", denied_by=None, last=5)
def _(version: str, broken: bool) -> Attempt:
    return _aliases(version, "b.example")
