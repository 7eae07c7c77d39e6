"""The sticky events of a response beside its timelines. Proposal: MSC4354.

Each is sent once. A user who joins or starts to sync gets all that are still sticky. They are for joined users,
whatever the room's history visibility says.
"""

from collections.abc import Collection, Iterable
from typing import Any

from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.events.sticky import StickyEvent
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.rooms.sticky_rooms import StickyRooms
from workers.synchrotron.sections.erased_senders import ErasedSenders
from workers.synchrotron.users.sync_user import SyncUser

#: The latest sticky events of a room in one response. A user's rate limit allows seven times as many in an hour.
_MAX_EVENTS = 1000


class StickySections:
    """Builds the sticky events of rooms."""

    def __init__(self, lookups: RoomLookups, sticky: StickyRooms, erased: ErasedSenders) -> None:
        self._lookups = lookups
        self._erased = erased
        self._sticky = sticky

    async def events(
        self,
        room: CachedRoom,
        user: SyncUser,
        view: Viewpoint,
        reader: Reader,
        *,
        above: int,
        end: int,
        shown: Iterable[TimelineEvent],
    ) -> list[Any]:
        """Return the sticky events above one ordinal and up to another, without those that the timeline shows."""
        sticky = self._sticky.of(room.room_id, reader.now_ms)
        if not sticky:
            return []
        known = {event.event_nid for event in shown}
        wanted = [one for one in sticky if above < one.ordinal <= end and one.event_nid not in known]
        return await self.encode(room, user, view, reader, wanted)

    async def encode(
        self, room: CachedRoom, user: SyncUser, view: Viewpoint, reader: Reader, wanted: Collection[StickyEvent]
    ) -> list[Any]:
        """Return these events in the room's order, without redacted ones and those of ignored senders."""
        if not wanted:
            return []
        latest = sorted(wanted, key=lambda one: one.ordinal)[-_MAX_EVENTS:]
        found = await self._lookups.events_by_number(room, [one.event_nid for one in latest])
        events = [found[one.event_nid] for one in latest if one.event_nid in found]
        events = [
            event for event in events if event.redacted_because is None and event.sender not in user.ignored_users
        ]
        return [shown_event(event, reader, view) for event in await self._erased.shown(room, view, events)]
