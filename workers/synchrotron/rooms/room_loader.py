"""Loading rooms from Postgres: many at a time from one snapshot, by a few statements for all of them."""

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.decoding import events_from_rows
from shared.rooms.state_history import history
from shared.rooms.timeline_event import TimelineEvent, event_from_row
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Database, Source
from shared.storage.events.timeline import get_events_by_nid
from shared.storage.rooms.for_cache import RoomForCache, add_all_members, add_members, get_rooms_for_cache
from shared.storage.rooms.state_changes import HeldRow, StateChange
from workers.synchrotron.rooms.cached_room import MAX_CHANGES, CachedRoom, Change

LOADED_EVENTS = 50  # timeline events of a loaded room, enough for two usual responses
KEPT_EVENTS = 100
#: With more member events than this, a room never holds all of them in memory. Readers of all read Postgres.
MAX_CACHED_MEMBERS = 1000
_STATEMENTS = 9  # per snapshot


@dataclass(frozen=True, slots=True)
class WantedMembers:
    """The member events to load with a room."""

    #: Load the members that a lazy-loading response to this user may need: senders, heroes, and the user.
    reader: UserId | None = None
    #: Load all members instead, unless there are more than MAX_CACHED_MEMBERS.
    everybody: bool = False


class RoomLoader:
    """Reads rooms for the cache."""

    def __init__(self, database: Database, metrics: SyncMetrics) -> None:
        self._database = database
        self._metrics = metrics

    async def load(self, room_ids: Collection[RoomId], wanted: WantedMembers) -> dict[RoomId, CachedRoom]:
        """Return the rooms as of one snapshot. Unknown rooms are left out."""
        loaded = {}
        self._metrics.queries.inc(_STATEMENTS)
        async with self._database.snapshot() as snapshot:
            found = await get_rooms_for_cache(snapshot, room_ids, max_events=LOADED_EVENTS, max_changes=MAX_CHANGES + 1)
            rooms = [await _begin(stored) for stored in found]
            await self._add_members(snapshot, rooms, wanted)
            for each in rooms:
                loaded[each.room.room_id] = await each.finish(snapshot, wanted)
        return loaded

    @staticmethod
    async def _add_members(snapshot: Source, rooms: Sequence["_LoadingRoom"], wanted: WantedMembers) -> None:
        whole = [each.stored for each in rooms if each.loads_everybody(wanted)]
        if whole:
            await add_all_members(snapshot, whole)
        if wanted.reader is not None:
            some = [each for each in rooms if not each.loads_everybody(wanted)]
            names = [(each.stored, name) for each in some for name in each.needed_members(wanted.reader)]
            if names:
                await add_members(snapshot, names)


@dataclass(slots=True)
class _LoadingRoom:
    """A room as read from Postgres, and as it is being built in memory."""

    stored: RoomForCache
    room: CachedRoom
    events: list[TimelineEvent]

    def loads_everybody(self, wanted: WantedMembers) -> bool:
        return wanted.everybody and self.stored.people <= MAX_CACHED_MEMBERS

    def needed_members(self, reader: UserId) -> list[UserId]:
        """Return the users whose member events lazy loading probably needs."""
        names = dict.fromkeys(event.sender for event in self.events)
        return list(names | dict.fromkeys(member.user_id for member in self.stored.summary.first) | {reader: None})

    async def finish(self, snapshot: Source, wanted: WantedMembers) -> CachedRoom:
        stored, room = self.stored, self.room
        first = self.events[0].ordinal if len(self.events) == LOADED_EVENTS else 1
        changes_from, found = first, stored.changes
        if len(found) > MAX_CHANGES:
            changes_from = found[-1].ordinal + 1  # the changes at that ordinal may be incomplete
            found = [change for change in found if change.ordinal >= changes_from]
        known = {event.event_nid: event for event in self.events}
        changes = await changes_with_events(snapshot, room, found[::-1], known)
        room.load(
            events=self.events,
            first_ordinal=first,
            state=[*await _state_events(room, stored.state, known), *held_events(room, stored.members, known)],
            changes=changes,
            changes_from=changes_from,
            visibility=history(stored.visibility, "history_visibility"),
        )
        room.members_complete = self.loads_everybody(wanted)
        room.summary = stored.summary
        room.has_many_members = stored.people > MAX_CACHED_MEMBERS
        for receipt in stored.receipts:
            room.apply_receipt(receipt)
        self.events, stored.state, stored.members = [], [], []
        await asyncio.sleep(0)
        return room


async def _begin(stored: RoomForCache) -> _LoadingRoom:
    room = CachedRoom(
        stored.room_id,
        stored.room_nid,
        stored.room_version,
        last_ordinal=stored.last_ordinal,
        max_events=KEPT_EVENTS,
    )
    loading = _LoadingRoom(stored, room, await events_from_rows(room.version, stored.timeline))
    stored.timeline = []
    await asyncio.sleep(0)  # half a millisecond per room: let other requests run
    return loading


async def _state_events(
    room: CachedRoom, rows: Sequence[HeldRow], known: Mapping[int, TimelineEvent]
) -> list[tuple[int | None, TimelineEvent]]:
    found, slices = [], Slices()
    for held in rows:
        await slices.rest()
        found += held_events(room, (held,), known)
    return found


def held_events(
    room: CachedRoom, rows: Iterable[HeldRow], known: Mapping[int, TimelineEvent]
) -> list[tuple[int | None, TimelineEvent]]:
    """Return (ordinal from which it holds, event) of each row. known: events in memory, by number."""
    return [
        (held.since, known.get(held.row.event_nid) or event_from_row(room.version, held.row))
        for held in rows
        if held.row is not None
    ]


async def changes_with_events(
    source: Source, room: CachedRoom, found: Sequence[StateChange], known: Mapping[int, TimelineEvent]
) -> list[tuple[int, Change]]:
    """Return the changes with their events, in the same order. known: events in memory, by number."""
    wanted = {change.event_nid for change in found if change.event_nid is not None}
    events = dict(known)
    missing = [nid for nid in wanted if nid not in known]
    if missing:
        rows = await get_events_by_nid(source, room.room_nid, missing)
        events.update((event.event_nid, event) for event in await events_from_rows(room.version, rows))
    changes = []
    for change in found:
        event = None if change.event_nid is None else events.get(change.event_nid)
        key = (change.type, change.state_key)
        changes.append((change.ordinal, Change(key, event, was_absent=change.prev_nid is None)))
    return changes
