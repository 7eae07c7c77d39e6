"""What relates to the events of an answer of /sync, from the rooms in memory."""

from collections.abc import Mapping, Sequence

from shared.rooms.aggregations import MAX_CHILDREN
from shared.rooms.child_groups import Child
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_cache import RoomCache
from workers.synchrotron.sections.erased_forms import ErasedForms


class RememberedRelatives:
    """What memory has, up to the end of an answer of /sync; Postgres is asked about events from before that only.

    In memory are all live events from some place on, so all that came after an event in it. Not history fetched
    into a later gap: as of a room of which portions are missing, the sums are of what is here.
    """

    room_id = None

    def __init__(
        self, rooms: RoomCache, erased: ErasedForms, room: CachedRoom, view: Viewpoint, ignored: frozenset[str],
        end: int, start: int,
    ) -> None:  # fmt: skip
        """start: ordinal of the first event asked about."""
        self._rooms = rooms
        self._erased = erased
        self._room = room
        self._end = end
        self._in_memory = room.has_from(start)
        self.view = view
        self.ignored = ignored

    async def of(self, event_ids: Sequence[str]) -> Mapping[str, Sequence[Child]]:
        if not event_ids:
            return {}
        if not self._in_memory:
            found = await self._rooms.related(self._room, event_ids, MAX_CHILDREN)
            return {
                event_id: [child for child in children if child.ordinal <= self._end]
                for event_id, children in found.items()
            }
        wanted, related = set(event_ids), dict[str, list[Child]]()
        for event in self._room.events:
            if event.relation is not None and event.relation.event_id in wanted and event.ordinal <= self._end:
                related.setdefault(event.relation.event_id, []).append(event)
        return related

    async def load(self, children: Sequence[Child]) -> Mapping[int, TimelineEvent]:
        known = {child.event_nid: child for child in children if isinstance(child, TimelineEvent)}
        missing = [child.event_nid for child in children if child.event_nid not in known]
        if missing:
            known |= await self._rooms.events_by_number(self._room, missing)
        shown = await self._erased.shown(self._room, self.view, list(known.values()))
        return {event.event_nid: event for event in shown}

    async def thread_size(self, root: TimelineEvent, user_id: str, replies: Sequence[Child]) -> tuple[int, bool]:
        return len(replies), any(reply.sender == user_id for reply in replies)
