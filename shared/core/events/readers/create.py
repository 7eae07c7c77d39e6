"""Reading `m.room.create`. Spec: client-server API, "m.room.create"; rooms/v11, rooms/v12."""

from shared.core.events.event import Event
from shared.core.identifiers import RoomId, UserId, is_room_id_of_hash, is_room_id_with_server
from shared.core.room_versions import RoomVersion


def room_creator(version: RoomVersion, create: Event) -> UserId | None:
    """Return the user who created the room: `creator` in the content up to version 10, the sender from 11 on."""
    if not version.creator_in_content:
        return create.sender
    creator = create.content.get("creator")
    return UserId(creator) if isinstance(creator, str) else None


def creators_of(version: RoomVersion, create: Event) -> frozenset[UserId]:
    """Return all creators: the sender and, from version 12 on, `additional_creators`."""
    if not version.additional_creators:
        creator = room_creator(version, create)
        return frozenset() if creator is None else frozenset({creator})
    additional = create.content.get("additional_creators")
    named = additional if isinstance(additional, list) else []
    return frozenset({create.sender, *(UserId(user_id) for user_id in named if isinstance(user_id, str))})


def room_version_name(create: Event) -> str:
    """Return the room's version, "1" if the event names none."""
    name = create.content.get("room_version", "1")
    return name if isinstance(name, str) else "1"


def federates(create: Event) -> bool:
    """Return True if users of other servers may take part, which `m.federate` false forbids."""
    return create.content.get("m.federate") is not False


def room_type(create: Event) -> str | None:
    """Return the room's type, such as "m.space", or None for an ordinary room."""
    kind = create.content.get("type")
    return kind if isinstance(kind, str) else None


def predecessor_of(create: Event) -> RoomId | None:
    """Return the id of the room that this one replaces, or None."""
    predecessor = create.content.get("predecessor")
    room_id = predecessor.get("room_id") if isinstance(predecessor, dict) else None
    return RoomId(room_id) if isinstance(room_id, str) and _is_room_id(room_id) else None


def _is_room_id(text: str) -> bool:
    return is_room_id_of_hash(text) or is_room_id_with_server(text)
