"""Resolve the states of a room's branches, which are overlays. The resolver works on event ids."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar, overload

from shared.core.events import Event
from shared.core.identifiers import EventId
from shared.storage.engine.pool import Database
from workers.event_persister.graph.known_events import KnownEvents
from workers.event_persister.graph.parked_rooms import ParkedRooms
from workers.event_persister.graph.resolution_events import TooLong, TooMuch
from workers.event_persister.graph.resolver import Resolver, RoomForResolution
from workers.event_persister.graph.state_entries import StateEntries
from workers.event_persister.room.drafts import Overlay, RoomChanged, StateEntry, StateKey
from workers.event_persister.room.live_room import LiveRoom

T = TypeVar("T")

_MAX_LOADS = 5
_MANY = 1000  # entries of a state. Walking so many takes a millisecond


class RoomResolution:
    def __init__(self, resolver: Resolver, database: Database, parked: ParkedRooms) -> None:
        self._resolver = resolver
        self._database = database
        self._parked = parked

    async def resolve(
        self,
        room: LiveRoom,
        overlays: Sequence[Overlay],
        known: KnownEvents,
        *,
        candidate: Event | None = None,
        base: Mapping[StateKey, EventId] | None = None,
    ) -> Overlay:
        """Return the resolution of states, all of them overlays upon the room's current state.

        candidate: an event in the states that has no place yet.
        base: a copy of the current state upon which the overlays are. Without it the result is valid only while the
            room's head has not changed.
        Raises RoomParked if the room is parked, Unavailable (`Resolver.resolve`), RoomChanged.
        """
        head = room.state.head
        distinct = list(dict.fromkeys(overlays))
        if len(distinct) == 1:
            return distinct[0]
        await self._parked.check(room)
        events = room.state.events_in_memory()
        if candidate is not None:
            events[candidate.event_id] = candidate

        def find(event_id: EventId) -> Event | None:
            event = events.get(event_id)
            return known.accepted(event_id) if event is None else event

        ids = []
        for overlay in distinct:
            ids.append(overlay.ids)
            if len(overlay) > _MANY:
                await asyncio.sleep(0)
        upon = CurrentIds(room) if base is None else base
        try:
            resolved = await self._resolver.resolve(
                RoomForResolution(room.room_nid, room.version, room.create, find), upon, ids
            )
        except (RuntimeError, KeyError) as error:
            if base is not None or room.state.head is head:
                raise
            # A thread walked the current state while a write of the room changed it.
            raise RoomChanged from error
        except (TooMuch, TooLong) as error:
            await self._parked.refused(room, error)
            raise
        self._parked.resolved(room)
        entries = _entries_in(distinct, resolved)
        await asyncio.sleep(0)
        elsewhere = [
            event_id
            for key, event_id in resolved.items()
            if event_id is not None and event_id not in entries and upon.get(key) != event_id
        ]
        found, _ = await StateEntries(room, self._database).by_id(elsewhere)
        entries.update((event_id, one.entry) for event_id, one in found.items())
        return _entries_of(upon, resolved, entries)

    def forget(self, event_id: EventId) -> None:
        """Drop an event that was redacted from the cache."""
        self._resolver.forget([event_id])

    async def load(self, room: LiveRoom, missing: Callable[[], set[int]], known: KnownEvents) -> None:
        """Load events into the room's memory until the rules miss none.

        An event that is being stored may leave the memory while others are loaded. Raises RoomChanged if one is gone.
        """
        for _ in range(_MAX_LOADS):
            nids = missing()
            if not nids:
                return
            for nid, found in (await known.entries(list(nids))).items():
                room.state.keep(nid, found.event)
        raise RoomChanged


class CurrentIds(Mapping[StateKey, EventId]):
    """A view of a room's current state as event ids, without a copy. Threads read it."""

    def __init__(self, room: LiveRoom) -> None:
        self._room = room

    def __getitem__(self, key: StateKey) -> EventId:
        entry = self._room.state.read_entry(key)
        if entry is None:
            raise KeyError(key)
        return entry.event_id

    @overload
    def get(self, key: StateKey, /) -> EventId | None: ...
    @overload
    def get(self, key: StateKey, /, default: EventId | T) -> EventId | T: ...
    def get(self, key: StateKey, /, default: EventId | T | None = None) -> EventId | T | None:
        # Most look-ups miss. The inherited method would raise and catch an exception for each.
        entry = self._room.state.read_entry(key)
        return default if entry is None else entry.event_id

    def __iter__(self) -> Iterator[StateKey]:
        return self._room.state.keys_now()

    def __len__(self) -> int:
        return self._room.state.size


def _entries_in(overlays: Sequence[Overlay], resolved: Mapping[StateKey, EventId | None]) -> dict[str, StateEntry]:
    """Return by event id those entries of the overlays that the resolution has chosen."""
    chosen = {event_id: key for key, event_id in resolved.items() if event_id is not None}
    entries: dict[str, StateEntry] = {}
    for overlay in overlays:
        for event_id, key in chosen.items():
            entry = overlay.get(key)
            if entry is not None and entry.event_id == event_id:
                entries[event_id] = entry
    return entries


def _entries_of(
    base: Mapping[StateKey, EventId], resolved: Mapping[StateKey, EventId | None], entries: Mapping[str, StateEntry]
) -> Overlay:
    overlay: dict[StateKey, StateEntry | None] = {}
    for key, event_id in resolved.items():
        if event_id is None:
            overlay[key] = None
            continue
        if base.get(key) == event_id:
            continue
        if event_id not in entries:
            raise RoomChanged  # it was purged meanwhile
        overlay[key] = entries[event_id]
    return Overlay(overlay)
