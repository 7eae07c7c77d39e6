"""The relations of events in a sync response, from the rooms in memory."""

from collections.abc import Mapping, Sequence

from shared.core.identifiers import EventId, UserId
from shared.rooms.aggregations import MAX_CHILDREN
from shared.rooms.child_groups import Child
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_lookups import RoomLookups
from workers.synchrotron.sections.erased_senders import ErasedSenders


class CachedRelatives:
    """Relations up to the end of a response. Postgres is read only for events from before those in memory.

    Memory holds every live event after some ordinal, so every live relation of an event in memory. History that was
    fetched later into a gap is not included.
    """

    room_id = None

    def __init__(
        self,
        lookups: RoomLookups,
        erased: ErasedSenders,
        room: CachedRoom,
        view: Viewpoint,
        *,
        ignored: frozenset[UserId],
        start: int,
        end: int,
    ) -> None:
        """start: the ordinal of the first event whose relations are needed."""
        self._lookups = lookups
        self._erased = erased
        self._room = room
        self._end = end
        self._in_memory = room.has_from(start)
        self.view = view
        self.ignored = ignored

    async def of(self, event_ids: Sequence[EventId]) -> Mapping[EventId, Sequence[Child]]:
        if not event_ids:
            return {}
        if not self._in_memory:
            found = await self._lookups.related(self._room, event_ids, MAX_CHILDREN)
            return {
                event_id: [child for child in children if child.ordinal <= self._end]
                for event_id, children in found.items()
            }
        wanted, related = set(event_ids), dict[EventId, list[Child]]()
        for event in self._room.events:
            if event.relation is not None and event.relation.event_id in wanted and event.ordinal <= self._end:
                related.setdefault(event.relation.event_id, []).append(event)
        return related

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        known = {child.event_nid: child for child in children if isinstance(child, TimelineEvent)}
        missing = [child.event_nid for child in children if child.event_nid not in known]
        if missing:
            known |= await self._lookups.events_by_number(self._room, missing)
        shown = await self._erased.shown(self._room, self.view, list(known.values()))
        return {event.event_nid: event for event in shown}

    async def thread_size(self, root: TimelineEvent, user_id: UserId, replies: Sequence[Child]) -> tuple[int, bool]:
        return len(replies), any(reply.sender == user_id for reply in replies)
