"""Rooms that the user is invited to, or has knocked on: the stripped state that shows what kind of room it is.

Spec: client-server API, "Stripped state"; GET /sync, InvitedRoom, KnockedRoom.
"""

from typing import Any

import orjson

from shared.storage.read_memberships import RoomMembership
from workers.synchrotron.room_cache import RoomCache
from workers.synchrotron.timeline_event import MEMBER, TimelineEvent

_SHOWN_TYPES = (
    "m.room.create", "m.room.name", "m.room.avatar", "m.room.topic", "m.room.join_rules", "m.room.canonical_alias",
    "m.room.encryption",
)  # fmt: skip
_STRIPPED_KEYS = ("content", "sender", "state_key", "type")


async def stripped_state_of(rooms: RoomCache, user_id: str, membership: RoomMembership) -> list[Any] | None:
    """Return the stripped state as of the invite or knock, the user's own member event last; None without a room."""
    room = await rooms.get(membership.room_id)
    if room is None:
        return None
    own, inviter = (MEMBER, user_id), (MEMBER, membership.sender)
    keys = [(event_type, "") for event_type in _SHOWN_TYPES]
    state = await rooms.keys_before(room, membership.ordinal + 1, [*keys, inviter, own])
    return [_stripped(state[key]) for key in dict.fromkeys((*keys, inviter, own)) if key in state]


def _stripped(event: TimelineEvent) -> dict[str, Any]:
    fields = orjson.loads(event.body)
    return {key: fields[key] for key in _STRIPPED_KEYS}
