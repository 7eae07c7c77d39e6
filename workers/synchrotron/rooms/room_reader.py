"""Rooms out of Postgres into memory: many at a time, from one snapshot, by a few statements for all of them."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.state_history import history
from shared.rooms.timeline_event import TimelineEvent, event_from_row
from shared.storage.engine.pool import Database, Source
from shared.storage.events.timeline import get_events_by_nid
from shared.storage.rooms.many_rooms import WholeRoom, add_all_members, add_members, get_whole_rooms
from shared.storage.rooms.state_changes import HeldRow, StateChange
from workers.synchrotron.rooms.cached_room import MAX_CHANGES, CachedRoom, Change

LOADED_EVENTS = 50  # of a room's timeline, when it is loaded: two usual answers
KEPT_EVENTS = 100
#: Rooms with more member events than this never have all of them in memory: who wants all reads Postgres.
MAX_CACHED_MEMBERS = 1000
_STATEMENTS = 9  # of one snapshot


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which member events are read with a room: all of them where `everybody` and they are not too many.

    Else those of the senders of its timeline, of its heroes and of the reader; None: nobody's.
    """

    reader: str | None = None
    everybody: bool = False


class RoomReader:
    def __init__(self, database: Database, metrics: SyncMetrics) -> None:
        self._database = database
        self._metrics = metrics

    async def read(self, room_ids: Collection[str], wanted: Wanted) -> dict[str, CachedRoom]:
        """Return those of the rooms that we have, as they are in one snapshot."""
        made = {}
        self._metrics.queries.inc(_STATEMENTS)
        async with self._database.snapshot() as snapshot:
            found = await get_whole_rooms(snapshot, room_ids, max_events=LOADED_EVENTS, max_changes=MAX_CHANGES + 1)
            begun = [await _begin(read) for read in found]
            await self._add_members(snapshot, begun, wanted)
            for each in begun:
                made[each.room.room_id] = await each.finish(snapshot, wanted)
        return made

    @staticmethod
    async def _add_members(snapshot: Source, rooms: Sequence["_Begun"], wanted: Wanted) -> None:
        whole = [each.read for each in rooms if each.takes_everybody(wanted)]
        if whole:
            await add_all_members(snapshot, whole)
        if wanted.reader is not None:
            some = [each for each in rooms if not each.takes_everybody(wanted)]
            names = [(each.read, name) for each in some for name in each.needed_members(wanted.reader)]
            if names:
                await add_members(snapshot, names)


@dataclass(slots=True)
class _Begun:
    """A room on its way into memory. events: those of its timeline."""

    read: WholeRoom
    room: CachedRoom
    events: list[TimelineEvent]

    def takes_everybody(self, wanted: Wanted) -> bool:
        return wanted.everybody and self.read.people <= MAX_CACHED_MEMBERS

    def needed_members(self, reader: str) -> list[str]:
        """Return whom lazy loading is likely to ask for."""
        names = dict.fromkeys(event.sender for event in self.events)
        return list(names | dict.fromkeys(member.user_id for member in self.read.summary.first) | {reader: None})

    async def finish(self, snapshot: Source, wanted: Wanted) -> CachedRoom:
        read, room = self.read, self.room
        first = self.events[0].ordinal if len(self.events) == LOADED_EVENTS else 1
        changes_from, found = first, read.changes
        if len(found) > MAX_CHANGES:
            changes_from = found[-1].ordinal + 1  # of the one before perhaps not all were read
            found = [change for change in found if change.ordinal >= changes_from]
        known = {event.event_nid: event for event in self.events}
        changes = await changes_with_events(snapshot, room, found[::-1], known)
        held = held_events(room, (*read.state, *read.members), known)
        room.fill(self.events, first, held, changes, changes_from, history(read.visibility, "history_visibility"))
        room.members_complete = self.takes_everybody(wanted)
        room.summary = read.summary
        room.many_members = read.people > MAX_CACHED_MEMBERS
        for receipt in read.receipts:
            room.apply_receipt(receipt)
        self.events, read.state, read.members = [], [], []
        await asyncio.sleep(0)
        return room


async def _begin(read: WholeRoom) -> _Begun:
    last = read.last_ordinal
    room = CachedRoom(read.room_id, read.room_nid, read.room_version, last_ordinal=last, max_events=KEPT_EVENTS)
    begun = _Begun(read, room, [event_from_row(room.version, row) for row in read.timeline])
    read.timeline = []
    await asyncio.sleep(0)  # half a millisecond each: others get their turn
    return begun


def held_events(
    room: CachedRoom, rows: Iterable[HeldRow], known: Mapping[int, TimelineEvent]
) -> list[tuple[int | None, TimelineEvent]]:
    """Return (since, event) of what the state holds. known: events by number that are in memory already."""
    return [
        (held.since, known.get(held.row.event_nid) or event_from_row(room.version, held.row))
        for held in rows
        if held.row is not None
    ]


async def changes_with_events(
    source: Source, room: CachedRoom, found: Sequence[StateChange], known: Mapping[int, TimelineEvent]
) -> list[tuple[int, Change]]:
    """Return the changes with their events, in their order; known: events that need not be read."""
    wanted = {change.event_nid for change in found if change.event_nid is not None}
    events = dict(known)
    missing = [nid for nid in wanted if nid not in known]
    if missing:
        rows = await get_events_by_nid(source, room.room_nid, missing)
        events.update((row.event_nid, event_from_row(room.version, row)) for row in rows)
    changes = []
    for change in found:
        event = None if change.event_nid is None else events.get(change.event_nid)
        key = (change.type, change.state_key)
        changes.append((change.ordinal, Change(key, event, from_nothing=change.prev_nid is None)))
    return changes
