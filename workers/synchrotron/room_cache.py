"""The rooms in memory: loaded when somebody asks, kept up by the streams `events` and `receipts`, bounded in bytes.

A room is loaded from one snapshot while the rows that arrive meanwhile are put by; so nothing falls between.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import orjson

from replication.rows import EventRow, ReceiptRow
from shared.core.errors import Unavailable
from shared.core.events.event import event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.room_versions import get_room_version
from shared.core.sync_tokens.vector import Vector
from shared.metrics.synchrotron import SyncMetrics
from shared.storage.pool import Database
from shared.storage.read_memberships import SummaryRecord, get_summary
from shared.storage.read_receipts import ReceiptRecord, get_receipts_of_room
from shared.storage.read_source import Source
from shared.storage.read_state import (
    KeyChange,
    get_current_state_events,
    get_key_history,
    get_keys_before,
    get_members_before,
    get_state_changed,
)
from shared.storage.read_timeline import get_events_by_nid, get_ordinal_at, get_room, get_timeline_before
from workers.synchrotron.cached_room import CachedRoom, OutOfStep, StateKey
from workers.synchrotron.timeline_event import HISTORY_VISIBILITY, MEMBER, TimelineEvent, event_from_row

logger = logging.getLogger(__name__)

_LOADED_EVENTS = 50  # of a room's timeline, when it is loaded: two usual answers
_KEPT_EVENTS = 100
#: Rooms with more member events than this never have all of them in memory: who wants all reads Postgres.
_MAX_CACHED_MEMBERS = 1000
_LOAD_ATTEMPTS = 3
_LOAD_QUERIES = 4


class _Loading:
    def __init__(self) -> None:
        self.done: asyncio.Future[CachedRoom | None] = asyncio.get_running_loop().create_future()
        self.rows: list[EventRow] = []


class RoomCache:
    """reads: the database as /sync's queries see it (counted); database: for snapshots."""

    def __init__(self, database: Database, reads: Source, budget_bytes: int, metrics: SyncMetrics) -> None:
        self._database = database
        self._reads = reads
        self._budget = budget_bytes
        self._metrics = metrics
        self._rooms: OrderedDict[str, CachedRoom] = OrderedDict()
        self._loading: dict[str, _Loading] = {}
        self._bytes = 0

    # -- rows

    def apply_event(self, row: EventRow) -> None:
        loading = self._loading.get(row.room_id)
        if loading is not None:
            loading.rows.append(row)
        room = self._rooms.get(row.room_id)
        if room is None:
            return
        before = room.size_bytes
        try:
            _apply(room, row)
        except OutOfStep:
            self._drop(room.room_id, "out of step")
            return
        self._account(room.size_bytes - before)

    def apply_receipt(self, row: ReceiptRow) -> None:
        room = self._rooms.get(row.room_id)
        if room is not None:
            before = room.size_bytes
            room.apply_receipt(
                ReceiptRecord(row.user_id, row.kind, row.thread_id, row.event_id, row.ts_ms, row.writer, row.position)
            )
            self._account(room.size_bytes - before)

    # -- whole rooms

    async def get(self, room_id: str) -> CachedRoom | None:
        """Return the room as the rows so far leave it, or fresher; None for one that we don't have."""
        room = self._rooms.get(room_id)
        if room is not None:
            self._rooms.move_to_end(room_id)
            self._metrics.room_hits.inc()
            return room
        loading = self._loading.get(room_id)
        if loading is None:
            loading = self._loading[room_id] = _Loading()
            # A task of its own: who asked first may go away, the others still wait.
            task = asyncio.get_running_loop().create_task(self._load(room_id, loading))
            task.add_done_callback(lambda _: None)
        return await asyncio.shield(loading.done)

    async def _load(self, room_id: str, loading: _Loading) -> None:
        self._metrics.room_misses.inc()
        try:
            room = await self._read_room(room_id, loading)
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

    async def _read_room(self, room_id: str, loading: _Loading) -> CachedRoom | None:
        for _ in range(_LOAD_ATTEMPTS):
            loading.rows.clear()
            room = await self._read_snapshot(room_id)
            if room is None:
                return None
            try:
                for row in loading.rows:
                    _apply(room, row)
            except OutOfStep:
                continue
            return room
        raise Unavailable("The room changes too quickly to be read")

    async def _read_snapshot(self, room_id: str) -> CachedRoom | None:
        self._metrics.queries.inc(_LOAD_QUERIES)
        async with self._database.snapshot() as snapshot:
            record = await get_room(snapshot, room_id)
            if record is None:
                return None
            nid, last = record.room_nid, record.last_ordinal
            version = get_room_version(record.room_version)
            timeline = await get_timeline_before(snapshot, nid, last + 1, _LOADED_EVENTS)
            state = await get_current_state_events(snapshot, nid, members=False)
            visibility = await get_key_history(snapshot, nid, HISTORY_VISIBILITY, "")
        room = CachedRoom(room_id, nid, record.room_version, last_ordinal=last, max_events=_KEPT_EVENTS)
        events = [event_from_row(version, row) for row in reversed(timeline)]
        first = events[0].ordinal if len(timeline) == _LOADED_EVENTS else 1
        room.fill(
            events, first, [event_from_row(version, row) for row in state], history(visibility, "history_visibility")
        )  # fmt: skip
        return room

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
            if event.replaced is None and room.has_from(event.ordinal):
                event.replaced = replaced

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
        if members and not room.members_complete and not await self._load_members(room):
            for row in await get_members_before(self._reads, room.room_nid, ordinal):
                event = event_from_row(room.version, row)
                whole[(MEMBER, event.state_key or "")] = event
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
            rows = await get_keys_before(self._reads, room.room_nid, end, absent)
            before = room.size_bytes
            room.remember_members(event_from_row(room.version, row) for row in rows)
            self._account_if_kept(room, before)
        state = {}
        still_missing = []
        for key in missing:
            found = room.state_before(key, ordinal)
            if found.known and found.event is not None:
                state[key] = found.event
            elif key in room.state:
                still_missing.append(key)
        if still_missing:
            rows = await get_keys_before(self._reads, room.room_nid, ordinal, still_missing)
            for row in rows:
                event = event_from_row(room.version, row)
                assert event.key is not None
                state[event.key] = event
        return state

    async def _load_members(self, room: CachedRoom) -> bool:
        """Try to have all members in memory; False when there are too many."""
        summary = await self.summary(room)
        if summary.joined + summary.invited > _MAX_CACHED_MEMBERS:
            return False
        end = room.last_ordinal + 1
        rows = await get_members_before(self._reads, room.room_nid, end)
        if len(rows) > _MAX_CACHED_MEMBERS:
            return False
        before = room.size_bytes
        room.remember_members([event_from_row(room.version, row) for row in rows], complete=True)
        self._account_if_kept(room, before)
        return True

    async def state_changed(self, room: CachedRoom, above: int, below: int) -> dict[StateKey, TimelineEvent]:
        """Return what each key that changed between two ordinals (both exclusive) was last set to."""
        if room.has_from(above + 1):
            events = room.events_between(above, below - 1)
        else:
            rows = await get_state_changed(self._reads, room.room_nid, above + 1, below)
            events = sorted((event_from_row(room.version, row) for row in rows), key=lambda event: event.ordinal)
        return {event.key: event for event in events if event.key is not None}

    async def member_history(self, room: CachedRoom, user_id: str, from_ordinal: int) -> list[tuple[int, str]]:
        """Return a user's membership over time, complete from an ordinal on (earlier entries may be missing)."""
        known: list[tuple[int, str]] = []
        event = room.state.get((MEMBER, user_id))
        while event is not None:
            known.append((event.ordinal, event.membership or "leave"))
            if event.ordinal < from_ordinal or event.replaces_nid is None:
                return known[::-1]
            event = event.replaced
        if not known and room.members_complete:
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

    async def receipts(self, room: CachedRoom) -> Collection[ReceiptRecord]:
        """Return the room's receipts, those changed last at the end."""
        if room.receipts is None:
            loaded: asyncio.Future[None] | None = room.receipts_loading
            if loaded is None:
                loaded = room.receipts_loading = asyncio.ensure_future(self._load_receipts(room))
            await asyncio.shield(loaded)
        assert room.receipts is not None
        return room.receipts.values()

    async def _load_receipts(self, room: CachedRoom) -> None:
        try:
            records = await get_receipts_of_room(self._reads, room.room_nid)
            before = room.size_bytes
            room.remember_receipts(sorted(records, key=lambda record: record.position))
            self._account_if_kept(room, before)
        finally:
            room.receipts_loading = None

    # -- the budget

    def statistics(self) -> dict[str, int]:
        return {"rooms": len(self._rooms), "bytes": self._bytes, "budget_bytes": self._budget}

    def _account_if_kept(self, room: CachedRoom, before: int) -> None:
        if self._rooms.get(room.room_id) is room:
            self._account(room.size_bytes - before)

    def _account(self, difference: int) -> None:
        self._bytes += difference
        while self._bytes > self._budget and len(self._rooms) > 1:
            self._drop(next(iter(self._rooms)), "budget")
        self._metrics.room_bytes.set(self._bytes)

    def _drop(self, room_id: str, why: str) -> None:
        room = self._rooms.pop(room_id)
        self._bytes -= room.size_bytes
        self._metrics.room_drops.labels(why).inc()


def history(changes: Sequence[KeyChange], field: str) -> list[tuple[int, str]]:
    """Return (ordinal, value of a content field) of a state key's history; unreadable values as their defaults."""
    default = "shared" if field == "history_visibility" else "leave"
    return [(change.ordinal, _content_text(change.json, field, default)) for change in changes]


def _content_text(json: bytes | None, field: str, default: str) -> str:
    if json is None:
        return default
    value = orjson.loads(json)["content"].get(field)
    return value if isinstance(value, str) else default


def _apply(room: CachedRoom, row: EventRow) -> None:
    room.apply(row, accepted=row.status == 0, redacts_nid=row.redacts_nid)
