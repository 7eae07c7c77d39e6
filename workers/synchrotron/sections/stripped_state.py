"""Stripped state and invitations: what a user gets of a room that they are invited to or have knocked on.

Spec: client-server API, "Stripped state"; GET /sync, InvitedRoom, KnockedRoom.
"""

from collections.abc import Collection
from typing import Any

import orjson

from shared.core.identifiers import UserId
from shared.core.room_versions import get_room_version
from shared.core.wire.stripped_state import strip_event, stripped_state_keys
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import event_from_row
from shared.rooms.viewpoint import Viewpoint
from shared.storage.accounts.erased_users import get_erased_users
from shared.storage.engine.pool import Source
from shared.storage.events.timeline import get_events_by_nid
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.sections.erased_senders import ErasedSenders


class StrippedStates:
    """Builds the stripped state of rooms."""

    def __init__(self, rooms: RoomCache, lookups: RoomLookups, erased: ErasedSenders) -> None:
        self._rooms = rooms
        self._lookups = lookups
        self._erased = erased

    async def get(self, user_id: UserId, membership: RoomMembership) -> list[Any] | None:
        """Return the stripped state as of the invite or knock, the user's member event last; None without a room."""
        room = await self._rooms.get(membership.room_id)
        if room is None:
            return None
        keys = stripped_state_keys(membership.sender, user_id)
        state = await self._lookups.keys_before(room, membership.ordinal + 1, keys)
        found = [state[key] for key in keys if key in state]
        shown = await self._erased.shown(room, Viewpoint(user_id, (), ()), found)
        return [strip_event(orjson.loads(event.body)) for event in shown]


async def invite_events(source: Source, invited: Collection[RoomMembership], reader: Reader) -> dict[str, Any]:
    """Return the reader's unstripped invite events by room id, for the endpoints from before /sync."""
    events: dict[str, Any] = {}
    for one in invited:
        for row in await get_events_by_nid(source, one.room_nid, [one.event_nid]):
            version = get_room_version(one.room_version)
            event = event_from_row(version, row)
            if await get_erased_users(source, [event.sender]):
                event.strip(version)  # the reader is invited only
            view = Viewpoint(reader.user_id, (), ())
            events[one.room_id] = shown_event(event, reader, view, room_id=one.room_id, in_state=True)
    return events
