"""Rooms that the user is invited to, or has knocked on: the stripped state that shows what kind of room it is.

Spec: client-server API, "Stripped state"; GET /sync, InvitedRoom, KnockedRoom.
"""

from typing import Any

import orjson

from shared.core.wire.stripped_state import shown_state_keys, strip_event
from shared.storage.read_memberships import RoomMembership
from workers.synchrotron.room_cache import RoomCache


async def stripped_state_of(rooms: RoomCache, user_id: str, membership: RoomMembership) -> list[Any] | None:
    """Return the stripped state as of the invite or knock, the user's own member event last; None without a room."""
    room = await rooms.get(membership.room_id)
    if room is None:
        return None
    keys = shown_state_keys(membership.sender, user_id)
    state = await rooms.keys_before(room, membership.ordinal + 1, keys)
    return [strip_event(orjson.loads(state[key].body)) for key in keys if key in state]
