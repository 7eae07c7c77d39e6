"""The rooms in memory: loaded on request, updated by the streams `events` and `receipts`, bounded in bytes.

A room is loaded from one snapshot. Rows that arrive meanwhile are kept and applied afterwards, so none is lost. A row
that state resolution changed the room by is kept as well, with all rows after it, until a request needs the room. That
request reads the changes from Postgres, once for all who wait.
"""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence

from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import EventRow, ReceiptRow
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.timeline_event import MEMBER
from shared.storage.engine.pool import Database, Source
from shared.storage.rooms.for_cache import get_members_before_ordinals, get_some_members_before_ordinals
from shared.storage.rooms.state_changes import HeldRow, get_changes
from shared.storage.user_data.receipts import ReceiptRecord
from workers.synchrotron.rooms.cached_room import MAX_CHANGES, CachedRoom, Change, OutOfStep
from workers.synchrotron.rooms.room_loader import (
    RoomLoader,
    WantedMembers,
    changes_with_events,
    held_events,
)

logger = logging.getLogger(__name__)

#: Rooms read by the same statements. No budget counts them before they are loaded.
ROOMS_PER_READ = 20
_LOAD_ATTEMPTS = 3
#: Rows kept for a room that no request needs. With more of them the room is evicted.
_MAX_PENDING_ROWS = 20
_PENDING_ROW_BYTES = 1_000  # without the JSON


class _Loading:
    """A room that is being loaded or updated."""

    def __init__(self, room: CachedRoom | None, rows: list[EventRow]) -> None:
        #: The room to update by `rows`. None: the room is read as a whole.
        self.room = room
        #: The room as read together with others, if it was.
        self.preloaded: CachedRoom | None = None
        #: Rows and receipts to apply.
        self.rows = rows
        self.receipts: list[ReceiptRecord] = []
        self.done: asyncio.Future[CachedRoom | None] = asyncio.get_running_loop().create_future()


class RoomCache:
    """All rooms in memory. Rooms are evicted least recently used first.

    `database` is for snapshots; `reads` counts its statements.
    """

    def __init__(self, database: Database, reads: Source, budget_bytes: int, metrics: SyncMetrics) -> None:
        self._database = database
        self._reads = reads
        self._budget = budget_bytes
        self._metrics = metrics
        self._loader = RoomLoader(database, metrics)
        self._rooms: OrderedDict[RoomId, CachedRoom] = OrderedDict()
        self._loading: dict[RoomId, _Loading] = {}
        #: By room whose state changes must be read: the resolved row and all rows after it.
        self._pending: dict[str, list[EventRow]] = {}
        #: The sum of the rooms' sizes, with their pending rows.
        self.size_bytes = 0

    # -- rows

    def apply_event(self, row: EventRow) -> None:
        loading = self._loading.get(row.room_id)
        if loading is not None:
            loading.rows.append(row)
        room = self._rooms.get(row.room_id)
        if room is None:
            return
        if row.resolved or (self._pending and row.room_id in self._pending):
            self._keep_pending(room, row)
            return
        try:
            _apply(room, row)
        except OutOfStep:
            self._evict(room.room_id, "out of step")
            return
        self._account(room)

    def _keep_pending(self, room: CachedRoom, row: EventRow) -> None:
        if row.ordinal <= room.last_ordinal:
            return
        rows = self._pending.setdefault(room.room_id, [])
        rows.append(row)
        if len(rows) > _MAX_PENDING_ROWS:
            self._evict(room.room_id, "behind")
            return
        self._account(room)

    def membership_in_memory(self, room_id: RoomId, user_id: UserId) -> str | None:
        """Return the user's membership as of the rows applied so far; None if it is not in memory."""
        room = self._rooms.get(room_id)
        if room is None or room_id in self._pending:
            return None
        entry = room.state.get((MEMBER, user_id))
        if entry is None:
            return "leave" if room.members_complete else None
        return entry.event.membership if entry.event is not None else None

    def apply_receipt(self, row: ReceiptRow) -> None:
        room, loading = self._rooms.get(row.room_id), self._loading.get(row.room_id)
        if room is None and loading is None:
            return
        record = ReceiptRecord(row.user_id, row.kind, row.thread_id, row.event_id, row.ts_ms, row.writer, row.position)
        if loading is not None:
            loading.receipts.append(record)
        if room is not None:
            room.apply_receipt(record)
            self._account(room)

    # -- whole rooms

    async def get(self, room_id: RoomId) -> CachedRoom | None:
        """Return the room as of the rows applied so far, or later; None for an unknown room."""
        room = self._rooms.get(room_id)
        if room is not None and room_id not in self._pending:
            self._rooms.move_to_end(room_id)
            self._metrics.room_hits.inc()
            return room
        loading = self._loading.get(room_id)
        if loading is None:
            rows = self._pending.get(room_id, [])
            if room is not None:
                self._remove(room_id)  # until it is up to date
            loading = self._loading[room_id] = _Loading(room, rows)
            # A separate task: the first request may be cancelled while others still wait.
            task = asyncio.get_running_loop().create_task(self._load(room_id, loading))
            task.add_done_callback(lambda _: None)
        return await asyncio.shield(loading.done)

    async def preload(self, room_ids: Collection[RoomId], wanted: WantedMembers) -> None:
        """Load at most ROOMS_PER_READ rooms and some of their members together, by few statements.

        Rooms that another request is loading are not waited for here.
        """
        missing = [each for each in room_ids if each not in self._rooms and each not in self._loading]
        if missing:
            loadings = {room_id: _Loading(None, []) for room_id in missing}
            self._loading.update(loadings)
            # A separate task, as in `get`.
            await asyncio.shield(asyncio.get_running_loop().create_task(self._load_together(loadings, wanted)))
        here = (self._rooms.get(each) for each in room_ids if each not in self._pending)
        await self._preload_members([room for room in here if room is not None and not room.members_complete], wanted)

    async def _load_together(self, loadings: Mapping[RoomId, _Loading], wanted: WantedMembers) -> None:
        found: dict[RoomId, CachedRoom] = {}
        try:
            found = await self._loader.load(loadings.keys(), wanted)
        except Exception as error:
            # Each room is then loaded by itself, and fails by itself.
            logger.info("Loading %d rooms together failed: %s", len(loadings), error)
        for room_id, loading in loadings.items():
            loading.preloaded = found.get(room_id)
            await self._load(room_id, loading)

    async def _preload_members(self, rooms: Iterable[CachedRoom], wanted: WantedMembers) -> None:
        whole, some = [], []
        for room in rooms:
            if wanted.everybody and not room.has_many_members:
                whole.append(room)
            elif wanted.reader is not None and (MEMBER, wanted.reader) not in room.state:
                some.append(room)
        if whole:
            ordinals = {room.room_nid: room.last_ordinal + 1 for room in whole}
            everybody = await get_members_before_ordinals(self._reads, ordinals)
            for room in whole:
                self.add_members(room, everybody[room.room_nid], complete=True)
                await asyncio.sleep(0)
        if some:
            assert wanted.reader is not None
            keys = [(room.room_nid, room.last_ordinal + 1, wanted.reader) for room in some]
            readers = await get_some_members_before_ordinals(self._reads, keys)
            for room in some:
                self.add_members(room, readers[room.room_nid], complete=False)

    def add_members(self, room: CachedRoom, rows: Sequence[HeldRow], *, complete: bool) -> None:
        """Add current member events to a room. complete: these are all of the room."""
        room.add_members(held_events(room, rows, {}), complete=complete)
        if self._rooms.get(room.room_id) is room:
            self._account(room)

    async def _load(self, room_id: RoomId, loading: _Loading) -> None:
        self._metrics.room_misses.inc()
        try:
            room = await self._load_and_update(room_id, loading)
        except BaseException as error:
            del self._loading[room_id]
            loading.done.set_exception(error)
            loading.done.exception()  # marks it as retrieved, in case no request waits any more
            if not isinstance(error, Exception):
                raise
            return
        del self._loading[room_id]
        if room is not None:
            self._rooms[room_id] = room
            self._account(room)
        loading.done.set_result(room)

    async def _load_and_update(self, room_id: RoomId, loading: _Loading) -> CachedRoom | None:
        for _ in range(_LOAD_ATTEMPTS):
            room, loading.preloaded = loading.room or loading.preloaded, None
            if room is None:
                loading.rows.clear()
                room = (await self._loader.load([room_id], WantedMembers())).get(room_id)
                if room is None:
                    return None
            try:
                await self._apply_rows(room, loading.rows)
                for receipt in loading.receipts:
                    room.apply_receipt(receipt)
            except OutOfStep:
                loading.room = None
                continue
            return room
        raise Unavailable("The room changes too quickly to be read. Please try again")

    async def _apply_rows(self, room: CachedRoom, rows: Sequence[EventRow]) -> None:
        """Apply rows, with those added meanwhile. Nothing is awaited after the last one."""
        done = 0
        while done < len(rows):
            row = rows[done]
            changes = None
            if row.resolved and row.ordinal > room.last_ordinal:
                changes = await self._read_changes(room, row.ordinal)
            _apply(room, row, changes)
            done += 1

    async def _read_changes(self, room: CachedRoom, ordinal: int) -> list[Change]:
        """Return the changes by state resolution at an ordinal. Raises OutOfStep if there are too many for memory."""
        found = await get_changes(self._reads, room.room_nid, ordinal, ordinal + 1, MAX_CHANGES + 1)
        if len(found) > MAX_CHANGES:
            raise OutOfStep
        return [change for _, change in await changes_with_events(self._reads, room, found, room.events_by_nid())]

    # -- the budget

    def _account(self, room: CachedRoom) -> None:
        """Count a room of the cache that is new or has changed, and evict others if need be."""
        before_bytes, room.counted_bytes = room.counted_bytes, room.size_bytes
        if self._pending and room.room_id in self._pending:
            room.counted_bytes += sum(_PENDING_ROW_BYTES + len(row.json) for row in self._pending[room.room_id])
        self.size_bytes += room.counted_bytes - before_bytes
        while self.size_bytes > self._budget and len(self._rooms) > 1:
            self._evict(next(iter(self._rooms)), "budget")
        self._metrics.room_bytes.set(self.size_bytes)

    def _remove(self, room_id: RoomId) -> None:
        room = self._rooms.pop(room_id)
        self.size_bytes -= room.counted_bytes
        room.counted_bytes = 0
        self._pending.pop(room_id, None)

    def _evict(self, room_id: RoomId, why: str) -> None:
        self._remove(room_id)
        self._metrics.room_drops.labels(why).inc()


def _apply(room: CachedRoom, row: EventRow, changes: Sequence[Change] | None = None) -> None:
    room.apply(row, accepted=row.status == 0, redacts_nid=row.redacts_nid, changes=changes)
