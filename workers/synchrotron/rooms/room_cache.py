"""The rooms in memory: loaded when somebody asks, kept up by the streams `events` and `receipts`, bounded in bytes.

A room is loaded from one snapshot while the rows that arrive meanwhile are put by; so nothing falls between. In the
same way a room waits, with its rows, when state resolution changed it: what changed is read from Postgres once, by the
first who asks for the room, and nobody sees the room in between.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from shared.core.errors import Unavailable
from shared.core.events.event import event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.rows import EventRow, ReceiptRow
from shared.core.sync_tokens.vector import Vector
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.state_history import history
from shared.rooms.timeline_event import MEMBER, TimelineEvent, event_from_row
from shared.storage.engine.pool import Database, Source
from shared.storage.events.relations import RelatedRow, get_related
from shared.storage.events.timeline import get_events_by_nid, get_ordinal_at, get_timeline_before
from shared.storage.rooms.many_rooms import get_members_before_ordinals, get_some_members_before_ordinals
from shared.storage.rooms.memberships import SummaryRecord, get_summary
from shared.storage.rooms.state import get_key_history, get_keys_before, get_members_before, get_state_before
from shared.storage.rooms.state_changes import HeldRow, get_changes, get_keys_held, get_last_changes, get_members_held
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.cached_room import MAX_CHANGES, CachedRoom, Change, Held, OutOfStep, StateKey
from workers.synchrotron.rooms.room_reader import (
    RoomReader,
    Wanted,
    changes_with_events,
    held_events,
)

logger = logging.getLogger(__name__)

#: Read by the same statements; what they take on the way is in no budget.
ROOMS_AT_ONCE = 20
_LOAD_ATTEMPTS = 3
#: Rows put by for a room that nobody asks for; with more of them it leaves the memory.
_MAX_ROWS_BEHIND = 20


class _Loading:
    """rows, receipts: what came since; room: the room in memory that only has to take them in.

    room None: it is read as a whole; early: as it was already read, together with others, if it was.
    """

    def __init__(self, room: CachedRoom | None, rows: list[EventRow]) -> None:
        self.early: CachedRoom | None = None
        self.receipts: list[ReceiptRecord] = []
        self.done: asyncio.Future[CachedRoom | None] = asyncio.get_running_loop().create_future()
        self.room = room
        self.rows = rows


class RoomCache:
    """reads: the database as /sync's queries see it (counted); database: for snapshots."""

    def __init__(self, database: Database, reads: Source, budget_bytes: int, metrics: SyncMetrics) -> None:
        self._database = database
        self._reads = reads
        self._budget = budget_bytes
        self._metrics = metrics
        self._reader = RoomReader(database, metrics)
        self._rooms: OrderedDict[str, CachedRoom] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        #: Rooms in memory whose state must be asked for: the resolved row, and all rows after it.
        self._behind: dict[str, list[EventRow]] = {}
        self._bytes = 0

    # -- rows

    def apply_event(self, row: EventRow) -> None:
        loading = self._loading.get(row.room_id)
        if loading is not None:
            loading.rows.append(row)
        room = self._rooms.get(row.room_id)
        if room is None:
            return
        if row.resolved or (self._behind and row.room_id in self._behind):
            self._put_by(room, row)
            return
        before = room.size_bytes
        try:
            _apply(room, row)
        except OutOfStep:
            self._drop(room.room_id, "out of step")
            return
        self._account(room.size_bytes - before)

    def _put_by(self, room: CachedRoom, row: EventRow) -> None:
        if row.ordinal <= room.last_ordinal:
            return
        rows = self._behind.setdefault(room.room_id, [])
        rows.append(row)
        if len(rows) > _MAX_ROWS_BEHIND:
            self._drop(room.room_id, "behind")

    def membership_in_memory(self, room_id: str, user_id: str) -> str | None:
        """Return the user's membership before the next row; None where memory does not tell."""
        room = self._rooms.get(room_id)
        if room is None or room_id in self._behind:
            return None
        held = room.state.get((MEMBER, user_id))
        if held is None:
            return "leave" if room.members_complete else None
        return held.event.membership if held.event is not None else None

    def apply_receipt(self, row: ReceiptRow) -> None:
        room, loading = self._rooms.get(row.room_id), self._loading.get(row.room_id)
        if room is None and loading is None:
            return
        record = ReceiptRecord(row.user_id, row.kind, row.thread_id, row.event_id, row.ts_ms, row.writer, row.position)
        if loading is not None:
            loading.receipts.append(record)
        if room is not None:
            before = room.size_bytes
            room.apply_receipt(record)
            self._account(room.size_bytes - before)

    # -- whole rooms

    async def get(self, room_id: str) -> CachedRoom | None:
        """Return the room as the rows so far leave it, or fresher; None for one that we don't have."""
        room = self._rooms.get(room_id)
        if room is not None and room_id not in self._behind:
            self._rooms.move_to_end(room_id)
            self._metrics.room_hits.inc()
            return room
        loading = self._loading.get(room_id)
        if loading is None:
            rows = self._behind.get(room_id, [])
            if room is not None:
                self._take_out(room_id)  # until it has taken in what changed
            loading = self._loading[room_id] = _Loading(room, rows)
            # A task of its own: who asked first may go away, the others still wait.
            task = asyncio.get_running_loop().create_task(self._load(room_id, loading))
            task.add_done_callback(lambda _: None)
        return await asyncio.shield(loading.done)

    async def prepare(self, room_ids: Collection[str], wanted: Wanted) -> None:
        """Have some rooms in memory, and members of them: what is missing is read together, by few statements.

        room_ids: at most ROOMS_AT_ONCE. What others are reading is waited for where it is needed, not here.
        """
        missing = [each for each in room_ids if each not in self._rooms and each not in self._loading]
        if missing:
            loadings = {room_id: _Loading(None, []) for room_id in missing}
            self._loading.update(loadings)
            # A task of its own, as in `get`.
            await asyncio.shield(asyncio.get_running_loop().create_task(self._load_together(loadings, wanted)))
        here = (self._rooms.get(each) for each in room_ids if each not in self._behind)
        await self._add_members([room for room in here if room is not None and not room.members_complete], wanted)

    async def _load_together(self, loadings: Mapping[str, _Loading], wanted: Wanted) -> None:
        found: dict[str, CachedRoom] = {}
        try:
            found = await self._reader.read(loadings.keys(), wanted)
        except Exception as error:
            # Each is then tried by itself, and fails by itself.
            logger.info("Rooms could not be read together: %s", error)
        for room_id, loading in loadings.items():
            loading.early = found.get(room_id)
            await self._load(room_id, loading)

    async def _add_members(self, rooms: Iterable[CachedRoom], wanted: Wanted) -> None:
        """Read members of rooms that are in memory. Those not named here are read when they turn out to be needed."""
        whole, some = [], []
        for room in rooms:
            if wanted.everybody and not room.many_members:
                whole.append(room)
            elif wanted.reader is not None and (MEMBER, wanted.reader) not in room.state:
                some.append(room)
        if whole:
            places = {room.room_nid: room.last_ordinal + 1 for room in whole}
            everybody = await get_members_before_ordinals(self._reads, places)
            for room in whole:
                self._remember_members(room, everybody[room.room_nid], complete=True)
                await asyncio.sleep(0)
        if some:
            assert wanted.reader is not None
            asked = [(room.room_nid, room.last_ordinal + 1, wanted.reader) for room in some]
            readers = await get_some_members_before_ordinals(self._reads, asked)
            for room in some:
                self._remember_members(room, readers[room.room_nid], complete=False)

    def _remember_members(self, room: CachedRoom, rows: Sequence[HeldRow], *, complete: bool) -> None:
        before = room.size_bytes
        room.remember_members(held_events(room, rows, {}), complete=complete)
        self._account_if_kept(room, before)

    async def _load(self, room_id: str, loading: _Loading) -> None:
        self._metrics.room_misses.inc()
        try:
            room = await self._bring_up(room_id, loading)
        except BaseException as error:
            del self._loading[room_id]
            loading.done.set_exception(error)
            loading.done.exception()  # perhaps nobody waits any more
            if not isinstance(error, Exception):
                raise
            return
        del self._loading[room_id]
        if room is not None:
            self._rooms[room_id] = room
            self._account(room.size_bytes)
        loading.done.set_result(room)

    async def _bring_up(self, room_id: str, loading: _Loading) -> CachedRoom | None:
        for _ in range(_LOAD_ATTEMPTS):
            room, loading.early = loading.room or loading.early, None
            if room is None:
                loading.rows.clear()
                room = (await self._reader.read([room_id], Wanted())).get(room_id)
                if room is None:
                    return None
            try:
                await self._follow(room, loading.rows)
                for receipt in loading.receipts:
                    room.apply_receipt(receipt)
            except OutOfStep:
                loading.room = None
                continue
            return room
        raise Unavailable("The room changes too quickly to be read")

    async def _follow(self, room: CachedRoom, rows: Sequence[EventRow]) -> None:
        """Apply rows, those that are added meanwhile too. Nothing is awaited after the last one."""
        done = 0
        while done < len(rows):
            row = rows[done]
            changes = None
            if row.resolved and row.ordinal > room.last_ordinal:
                changes = await self._read_changes(room, row.ordinal)
            _apply(room, row, changes)
            done += 1

    async def _read_changes(self, room: CachedRoom, ordinal: int) -> list[Change]:
        """Return what resolution changed at an ordinal. Raises OutOfStep: too much for the memory, read all anew."""
        found = await get_changes(self._reads, room.room_nid, ordinal, ordinal + 1, MAX_CHANGES + 1)
        if len(found) > MAX_CHANGES:
            raise OutOfStep
        return [change for _, change in await changes_with_events(self._reads, room, found, room.events_by_nid())]

    # -- what is read beside the cache, and remembered where that serves the next reader

    async def ordinal_at(self, room: CachedRoom, vector: Vector) -> int:
        """Return the place of a vector in the room: the ordinal of the latest event behind it, 0 for none."""
        place = room.place_of(vector.covers)
        if place is None:
            place = await get_ordinal_at(self._reads, room.room_nid, vector.known, vector.base, vector.above)
        return place

    async def events_before(self, room: CachedRoom, ordinal: int, limit: int) -> list[TimelineEvent]:
        """Return at most `limit` events before an ordinal (exclusive), from Postgres, ascending."""
        rows = await get_timeline_before(self._reads, room.room_nid, ordinal, limit)
        return [event_from_row(room.version, row) for row in reversed(rows)]

    async def add_previous(self, room: CachedRoom, events: Iterable[TimelineEvent]) -> None:
        """Look up what state events replaced, where a row told the number only: a changed member, mostly."""
        missing = {
            event.replaces_nid: event for event in events if event.replaces_nid is not None and event.previous is None
        }
        if not missing:
            return
        nids = [nid for nid in missing if nid is not None]
        for row in await get_events_by_nid(self._reads, room.room_nid, nids):
            replaced = event_from_row(room.version, row)
            event = missing[row.event_nid]
            event.previous = replaced.as_previous()
            room.remember_before(event, replaced)

    async def related(
        self, room: CachedRoom, event_ids: Sequence[str], limit: int
    ) -> Mapping[str, Sequence[RelatedRow]]:
        """Return what relates to events that are older than what is in memory, `limit` of each."""
        return await get_related(self._reads, room.room_nid, event_ids, limit)

    async def events_by_number(self, room: CachedRoom, event_nids: Sequence[int]) -> dict[int, TimelineEvent]:
        """Return events from Postgres."""
        rows = await get_events_by_nid(self._reads, room.room_nid, event_nids)
        return {row.event_nid: event_from_row(room.version, row) for row in rows}

    async def pdus(self, room: CachedRoom, events: Iterable[TimelineEvent]) -> dict[int, dict[str, Any]]:
        """Return the events as they go between servers, by their numbers; redacted where they are here."""
        wanted = {event.event_nid: event for event in events}
        rows = await get_events_by_nid(self._reads, room.room_nid, list(wanted)) if wanted else []
        pdus = {}
        for row in rows:
            pdu = event_from_storage(room.version, row.json, row.event_id).pdu
            redacted = wanted[row.event_nid].redacted_because is not None
            pdus[row.event_nid] = redact_pdu(room.version, pdu) if redacted else dict(pdu)
        return pdus

    async def state_before(self, room: CachedRoom, ordinal: int, *, members: bool) -> dict[StateKey, TimelineEvent]:
        """Return the state just before an ordinal. members: with those of m.room.member, else without."""
        whole: dict[StateKey, TimelineEvent] = {}
        if ordinal < room.changes_from:  # what has left the state since then is not in memory
            rows = await get_state_before(self._reads, room.room_nid, ordinal, members=members)
            return _by_key(event_from_row(room.version, row) for row in rows)
        if members and not room.members_complete and not await self._load_members(room):
            rows = await get_members_before(self._reads, room.room_nid, ordinal)
            whole = _by_key(event_from_row(room.version, row) for row in rows)
            members = False
        keys = [key for key in room.state if members or key[0] != MEMBER]
        whole.update(await self.keys_before(room, ordinal, keys))
        return whole

    async def keys_before(
        self, room: CachedRoom, ordinal: int, keys: Iterable[StateKey]
    ) -> dict[StateKey, TimelineEvent]:
        """Return these keys of the state just before an ordinal; keys that it did not have are left out."""
        state: dict[StateKey, TimelineEvent] = {}
        missing: list[StateKey] = []
        for key in keys:
            found = room.state_before(key, ordinal)
            if not found.known:
                missing.append(key)
            elif found.event is not None:
                state[key] = found.event
        if missing:
            state.update(await self._read_keys(room, ordinal, missing))
        return state

    async def _read_keys(
        self, room: CachedRoom, ordinal: int, missing: Sequence[StateKey]
    ) -> dict[StateKey, TimelineEvent]:
        end = room.last_ordinal + 1
        absent = [key for key in missing if key not in room.state]
        if absent:
            # Members whom we see for the first time: read as they are now and kept, for they will write again.
            held = await get_keys_held(self._reads, room.room_nid, end, absent)
            self._remember_members(room, [one for one in held if one.type == MEMBER], complete=False)
        state = {}
        still_missing = []
        for key in missing:
            found = room.state_before(key, ordinal)
            if found.known and found.event is not None:
                state[key] = found.event
            elif not found.known and (key in room.state or ordinal < room.changes_from):
                still_missing.append(key)
        if still_missing:
            rows = await get_keys_before(self._reads, room.room_nid, ordinal, still_missing)
            state.update(_by_key(event_from_row(room.version, row) for row in rows))
        return state

    async def _load_members(self, room: CachedRoom) -> bool:
        """Try to have all members in memory; False when there are too many."""
        if room.many_members:
            return False
        rows = await get_members_held(self._reads, room.room_nid, room.last_ordinal + 1)
        self._remember_members(room, rows, complete=True)
        return True

    async def last_changes(self, room: CachedRoom, above: int, up_to: int) -> dict[StateKey, Held]:
        """Return the last change of each key that changed above one ordinal and up to another (inclusive)."""
        changes = room.changes_between(above, up_to)
        if changes is not None:
            return {held.key: held for held in changes}
        rows = await get_last_changes(self._reads, room.room_nid, above + 1, up_to + 1)
        last = {}
        for row in rows:
            assert row.since is not None
            key = (row.type, row.state_key)
            last[key] = Held(row.since, key, None if row.row is None else event_from_row(room.version, row.row))
        return last

    async def member_history(self, room: CachedRoom, user_id: str, from_ordinal: int) -> list[tuple[int, str]]:
        """Return a user's membership over time, complete from an ordinal on (earlier entries may be missing)."""
        known: list[tuple[int, str]] = []
        held = room.state.get((MEMBER, user_id))
        while held is not None:
            known.append((held.since, (held.event and held.event.membership) or "leave"))
            if held.since < from_ordinal or (held.from_nothing and from_ordinal >= room.changes_from):
                return known[::-1]
            held = held.before
        if not known and room.members_complete and from_ordinal >= room.changes_from:
            return []
        changes = await get_key_history(self._reads, room.room_nid, MEMBER, user_id)
        return history(changes, "membership")

    async def summary(self, room: CachedRoom) -> SummaryRecord:
        """Return the room's counts and heroes, as they are now."""
        if room.summary is not None:
            return room.summary
        at = room.last_ordinal
        self._metrics.queries.inc()
        async with self._database.connection() as connection:
            summary = await get_summary(connection, room.room_nid)
        if room.last_ordinal == at:
            room.summary = summary
        return summary

    # -- the budget

    def _account_if_kept(self, room: CachedRoom, before: int) -> None:
        if self._rooms.get(room.room_id) is room:
            self._account(room.size_bytes - before)

    def _account(self, difference: int) -> None:
        self._bytes += difference
        while self._bytes > self._budget and len(self._rooms) > 1:
            self._drop(next(iter(self._rooms)), "budget")
        self._metrics.room_bytes.set(self._bytes)

    def _take_out(self, room_id: str) -> None:
        self._bytes -= self._rooms.pop(room_id).size_bytes
        self._behind.pop(room_id, None)

    def _drop(self, room_id: str, why: str) -> None:
        self._take_out(room_id)
        self._metrics.room_drops.labels(why).inc()


def _by_key(events: Iterable[TimelineEvent]) -> dict[StateKey, TimelineEvent]:
    return {event.key: event for event in events if event.key is not None}


def _apply(room: CachedRoom, row: EventRow, changes: Sequence[Change] | None = None) -> None:
    room.apply(row, accepted=row.status == 0, redacts_nid=row.redacts_nid, changes=changes)
