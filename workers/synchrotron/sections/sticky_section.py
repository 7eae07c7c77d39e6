"""What an answer tells of sticky events beside the timelines. Proposal: MSC4354.

Each once, like the timeline; whoever joins, or begins, gets all that are sticky then. Who may see a room's history
says nothing of them: they are for whoever is joined.
"""

from collections.abc import Collection, Iterable
from typing import Any

from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.storage.events.sticky import StickyEvent
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.rooms.sticky_rooms import StickyRooms
from workers.synchrotron.users.sync_user import SyncUser

#: Of one room in one answer: the latest. A user's rate limit allows seven times as many in an hour.
_MOST = 1000


class StickySections:
    def __init__(self, rooms: RoomCache, sticky: StickyRooms) -> None:
        self._rooms = rooms
        self._sticky = sticky

    async def events(
        self, room: CachedRoom, user: SyncUser, view: Viewpoint, reader: Reader, above: int, end: int,
        shown: Iterable[TimelineEvent],
    ) -> list[Any]:  # fmt: skip
        """Return a room's sticky events above one ordinal and up to another, but for those that the timeline shows."""
        sticky = self._sticky.of(room.room_id, reader.now_ms)
        if not sticky:
            return []
        known = {event.event_nid for event in shown}
        wanted = [one for one in sticky if above < one.ordinal <= end and one.event_nid not in known]
        return await self.show(room, user, view, reader, wanted)

    async def show(
        self, room: CachedRoom, user: SyncUser, view: Viewpoint, reader: Reader, wanted: Collection[StickyEvent]
    ) -> list[Any]:
        """Return these events in the room's order, without those of ignored senders and redacted ones."""
        if not wanted:
            return []
        latest = sorted(wanted, key=lambda one: one.ordinal)[-_MOST:]
        found = await self._rooms.events_by_number(room, [one.event_nid for one in latest])
        events = [found[one.event_nid] for one in latest if one.event_nid in found]
        return [
            shown_event(event, reader, view)
            for event in events
            if event.redacted_because is None and event.sender not in user.ignored_users
        ]
