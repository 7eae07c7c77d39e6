"""The resolution of a room's branches: from overlays of entries to event ids for the resolver, and back."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from shared.core.events import Event
from shared.core.identifiers import EventId
from workers.event_persister.drafts import Overlay, RoomChanged, StateEntry, StateKey
from workers.event_persister.graph_states import same_entry, without_doubles
from workers.event_persister.known_events import KnownEvents
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.resolver import Resolver, RoomForResolution

_MAX_LOADS = 5
_MANY = 1000  # entries of a state, whose walk takes a millisecond


class RoomResolution:
    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    async def resolve(
        self, room: LiveRoom, overlays: Sequence[Overlay], known: KnownEvents, *, candidate: Event | None = None
    ) -> Overlay:
        """Return the resolution of states, all of them overlays upon the room's current state.

        candidate: an event in them that has no place yet. The result is of worth only while the room's head has not
        changed. Raises Unavailable (`Resolver.resolve`), RoomChanged.
        """
        head = room.head
        distinct = without_doubles(overlays)
        if len(distinct) == 1:
            return distinct[0]
        entries = {entry.event_id: entry for overlay in distinct for entry in overlay.values() if entry is not None}
        events = room.events_in_memory()
        if candidate is not None:
            events[candidate.event_id] = candidate

        def find(event_id: EventId) -> Event | None:
            event = events.get(event_id)
            return known.accepted(event_id) if event is None else event

        ids = []
        for overlay in distinct:
            ids.append({key: None if entry is None else EventId(entry.event_id) for key, entry in overlay.items()})
            if len(overlay) > _MANY:
                await asyncio.sleep(0)
        try:
            resolved = await self._resolver.resolve(
                RoomForResolution(room.room_nid, room.version, room.create, find), CurrentIds(room), ids
            )
        except (RuntimeError, KeyError) as error:
            if room.head is head:
                raise
            # A thread walked the current state while a write of the room changed it.
            raise RoomChanged from error
        await known.look_up([event_id for event_id in resolved.values() if event_id and event_id not in entries])
        await asyncio.sleep(0)
        return _entries_of(room, resolved, entries, known)

    def forget(self, event_id: str) -> None:
        """This event was redacted: what is kept of it is not what counts now."""
        self._resolver.forget([EventId(event_id)])

    async def load(self, room: LiveRoom, missing: Callable[[], set[int]], known: KnownEvents) -> None:
        """Bring events into the room's memory until nothing is missing, so that the rules can look at them.

        What is being stored may leave the memory while others are loaded. Raises RoomChanged when one is gone.
        """
        for _ in range(_MAX_LOADS):
            nids = missing()
            if not nids:
                return
            for nid, found in (await known.entries(list(nids))).items():
                room.keep(nid, found.event)
        raise RoomChanged


class CurrentIds(Mapping[StateKey, EventId]):
    """A room's current state as event ids, without a copy."""

    def __init__(self, room: LiveRoom) -> None:
        self._room = room

    def __getitem__(self, key: StateKey) -> EventId:
        entry = self._room.entry(*key)
        if entry is None:
            raise KeyError(key)
        return EventId(entry.event_id)

    def __iter__(self) -> Iterator[StateKey]:
        return self._room.keys_now()

    def __len__(self) -> int:
        return self._room.state_size


def _entries_of(
    room: LiveRoom, resolved: Mapping[StateKey, EventId | None], entries: Mapping[str, StateEntry], known: KnownEvents
) -> Overlay:
    overlay: dict[StateKey, StateEntry | None] = {}
    for key, event_id in resolved.items():
        if event_id is None:
            overlay[key] = None
            continue
        entry = entries.get(event_id)
        if entry is None:
            found = known.get(event_id)
            if found is None:
                raise RoomChanged  # it was purged meanwhile
            entry = found.entry()
        if not same_entry(entry, room.entry(*key)):
            overlay[key] = entry
    return overlay
