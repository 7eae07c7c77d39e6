"""Grouped commits: while one statement is under way, the next batch gathers.

An idle server adds no delay to a write. A busy one stores dozens of events with one statement. One statement is under
way at a time (`FencedWriter`), so the position order of this process is its commit order.

A batch that the database refuses is halved until the offending write is alone. That one fails, and the writes of its
room that were built above it are built again. Halving n writes of which k are refused takes fewer than 2n statements,
and fewer than 2k(1 + log2(n/k)) + 1.

If another transaction holds a row of a batch locked, the rooms concerned leave the batch and the rest is stored at
once. These rooms wait in `locked_rooms.py` until their rows are free.

A lost lease, or a statement with an unknown outcome, fails everything. The process then drops its memory and rejoins
the fleet.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from shared.cache.sizes import json_size
from shared.core.errors import MatrixError, SkepError, Unavailable
from shared.core.rows import EventRow
from shared.metrics.persister import PersisterMetrics
from shared.runtime import fault_points
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import Database
from shared.storage.events import client_transactions
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit import StatementRefused, StoredBatch, commit_events
from workers.event_persister.commit.batches import batch_of, rows_of
from workers.event_persister.commit.locked_rooms import PROBE_EVERY_S, LockedRooms
from workers.event_persister.room.drafts import RoomLost
from workers.event_persister.room.live_room import LiveRoom, Write

logger = logging.getLogger(__name__)

_MAX_BATCH_EVENTS = 256  # of one statement: more only makes the next batch wait
_MAX_BATCH_BYTES = 4 << 20
#: Some seconds of a busy server: 20,000 usual events. More get 503, which tells clients to slow down.
_MAX_WAITING_BYTES = 128 << 20
_EVENT_BYTES = 5_000  # an event with its draft and its place in the room, beside the JSON
_SMALL_JSON_BYTES = 2_000  # of which the decoded form is part of `_EVENT_BYTES`, whatever is in it
#: How long a statement waits for a row. Normally no other transaction writes a room's rows, and all rooms wait too.
LOCK_WAIT_MS = 100
_MAX_LOCK_WAITS = 10  # of one batch. What is left of it then waits apart

#: Constraints that a write violates if it was built on an old copy of its room.
_OLD_COPY = (
    "events_room_nid_ordinal_key",
    "rooms_room_id_key",
    "events_state_nid_fkey",  # the snapshot was reclaimed
    "state_snapshots_parent_fkey",
)


class AlreadySent(SkepError):
    """The write's transaction id was used longer ago than memory reaches. The database has its answer."""


class EventExists(MatrixError):
    """An event with the same id is stored: of this room, by another process meanwhile, or of another room."""

    def __init__(self) -> None:
        super().__init__("M_UNKNOWN", "The event cannot be stored", 400)


class Announce(Protocol):
    def __call__(self, rows: Sequence[EventRow]) -> None:
        """Announce committed rows, positions ascending."""
        ...


class Committer:
    """Stores the writes of all rooms, batch by batch.

    lease: the lease under which `write` writes.
    lost_room: called with a room whose copy in memory is of no use any more.
    database: for finding locked rows.
    """

    def __init__(
        self,
        *,
        write: FencedWrite,
        lease: int,
        announce: Announce,
        lost_room: Callable[[LiveRoom], None],
        clock: Clock,
        tasks: TaskGroup,
        metrics: PersisterMetrics,
        server_name: str,
        database: Database,
    ) -> None:
        self._write = write
        self._lease = lease
        self._announce = announce
        self._lost_room = lost_room
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._server_name = server_name
        self._queue: deque[Write] = deque()
        self._waiting_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._locked_rooms = LockedRooms(database, clock, metrics, server_name, self._lose)
        self._probing: asyncio.Task[None] | None = None
        self._lock_waits = 0  # of the batch under way

    def submit(self, write: Write) -> None:
        """Queue a built write. Its `done` is set once it is stored and announced, or has failed.

        Writes of one room must come in the order in which they were built.
        """
        fault_points.reach("built")
        self._queue.append(write)
        write.size_bytes = sum(_event_size(built.event.encoded) for built in write.built)
        self._waiting_bytes += write.size_bytes
        self._metrics.waiting.set(len(self._queue))
        self._start()
        fault_points.reach("submitted")

    def check_room_for_more(self) -> None:
        """Raise Unavailable if the events that wait already take too much memory."""
        if self._waiting_bytes + self._locked_rooms.waiting_bytes >= _MAX_WAITING_BYTES:
            raise Unavailable("The server has too many events to store. Try again later")

    async def finish(self) -> None:
        """Wait until all submitted writes are stored or have failed. Those that wait for locked rows fail now."""
        self._locked_rooms.give_up_all()
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])
            self._locked_rooms.give_up_all()

    def _start(self) -> None:
        if self._running is None or self._running.done():
            self._running = self._tasks.spawn(self._run(), "commit events")

    async def _run(self) -> None:
        while self._queue or self._locked_rooms.free:
            if self._queue:
                await self._commit_or_fail(self._take_batch())
            if self._locked_rooms.free:
                await self._try(self._locked_rooms.free.popleft())

    async def _try(self, room_nid: int) -> None:
        """Store the waiting writes of a room whose rows were seen free."""
        writes = self._locked_rooms.begin_try(room_nid)
        try:
            for first in range(0, len(writes), _MAX_BATCH_EVENTS):
                await self._commit_or_fail(writes[first : first + _MAX_BATCH_EVENTS], again=True)
        finally:
            self._locked_rooms.end_try(room_nid)

    async def _probe(self) -> None:
        while self._locked_rooms:
            await asyncio.sleep(PROBE_EVERY_S)
            try:
                await self._locked_rooms.probe()
            except Unavailable:
                continue  # a whole table is locked, or the database is away
            if self._locked_rooms.free:
                self._start()

    async def _commit_or_fail(self, batch: Sequence[Write], *, again: bool = False) -> None:
        self._lock_waits = 0
        try:
            await self._commit(batch, again=again)
        except Exception as error:
            # Fenced, or a fault of ours after the database had answered: it is unknown what is stored.
            self._fail_all(batch, error)
            if not isinstance(error, Unavailable):
                raise

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        events = size = 0
        while self._queue and (not batch or (events < _MAX_BATCH_EVENTS and size < _MAX_BATCH_BYTES)):
            write = self._queue.popleft()
            batch.append(write)
            self._waiting_bytes -= write.size_bytes
            events += len(write.built)
            size += sum(len(built.event.encoded) for built in write.built)
        self._metrics.waiting.set(len(self._queue))
        return batch

    async def _commit(self, writes: Sequence[Write], *, again: bool = False) -> None:
        """Store the writes except those that are refused. again: True if they met a lock that could not be found."""
        # Writes that could not be built again after another one failed have nothing left to store.
        writes = [write for write in self._locked_rooms.keep_back(writes) if write.built]
        if not writes:
            return
        batch = batch_of(writes, self._server_name)
        self._metrics.statements.inc()
        started = time.perf_counter()
        fault_points.reach("before the statement")
        try:
            stored = await commit_events(self._write, batch)
        except StatementRefused as refused:
            self._metrics.refused.inc()
            if refused.outage:
                self._fail_in_outage(writes)
            elif refused.transient:
                await self._commit_unlocked(writes, batch, again)
            elif len(writes) == 1:
                self._refused(writes[0], refused)
            else:
                await self._commit_halves(writes, again)
            return
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_events.observe(len(stored.positions))
        self._metrics.events.inc(len(stored.positions))
        self._stored(writes, batch, stored)

    def _fail_in_outage(self, writes: Sequence[Write]) -> None:
        """Fail writes that the database cannot store now, whatever is in them. Their clients try again."""
        for write in writes:
            write.fail(Unavailable("The database cannot store anything just now"))
            write.room.rebuild_after(write, self._clock.now_ms())

    async def _commit_halves(self, writes: Sequence[Write], again: bool) -> None:
        middle = len(writes) // 2
        await self._commit(writes[:middle], again=again)
        await self._commit(writes[middle:], again=again)

    async def _commit_unlocked(self, writes: Sequence[Write], batch: EventBatch, again: bool) -> None:
        """Set the rooms with locked rows apart, and store the other writes at once."""
        self._metrics.lock_timeouts.inc()
        self._lock_waits += 1
        locked = await self._locked_rooms.find_locked(batch)
        if locked:
            self._wait_for_locks([write for write in writes if write.room.room_nid in locked], seen=True)
            await self._commit([write for write in writes if write.room.room_nid not in locked])
        elif not again:
            await self._commit(writes, again=True)  # usually the lock was released meanwhile
        elif len(writes) == 1 or self._lock_waits >= _MAX_LOCK_WAITS or _one_room(writes):
            self._wait_for_locks(writes, seen=False)
        else:
            await self._commit_halves(writes, again)

    def _wait_for_locks(self, writes: Sequence[Write], *, seen: bool) -> None:
        for room_id in {write.room.room_id for write in writes}:
            logger.warning("Rows of room %s are locked by another transaction: its events wait", room_id)
        self._locked_rooms.put(writes, seen=seen)
        if self._probing is None or self._probing.done():
            self._probing = self._tasks.spawn(self._probe(), "look for locked rows")

    def _stored(self, writes: Sequence[Write], batch: EventBatch, stored: StoredBatch) -> None:
        fault_points.reach("after the statement")
        rows: list[EventRow] = []
        taken = iter(zip(batch.events, stored.positions, strict=True))
        for write in writes:
            mine = list(itertools.islice(taken, len(write.built)))
            rows.extend(rows_of(write.room, mine, self._lease, batch.memberships, stored.counts))
            write.room.committed(write, [position for _, position in mine], self._lease)
        fault_points.reach("committed")
        self._announce(rows)
        fault_points.reach("announced")
        for write in writes:
            if not write.done.done():
                write.done.set_result([built.event.event_id for built in write.built])
        for room in {write.room for write in writes if write.room.outgrown}:
            self._lose(room, RoomLost("The room is being read again"))

    def _refused(self, write: Write, refused: StatementRefused) -> None:
        """Fail a write that was refused alone. Nothing of it was stored."""
        room = write.room
        if refused.constraint in _OLD_COPY:
            # Another process wrote into the room, or purged it. Our copy is old, and perhaps our view of its owner.
            logger.warning("Room %s was changed by another process", room.room_id)
            self._lose(room, Unavailable("The room was changed and is being read again. Try again"))
            return
        if refused.constraint == client_transactions.PRIMARY_KEY:
            error: Exception = AlreadySent()
        elif refused.constraint == "events_by_id":
            error = EventExists()
        elif refused.constraint == "room_aliases_pkey":
            error = MatrixError("M_ROOM_IN_USE", "This room alias is already in use", 400)
        else:
            logger.error("An event of room %s cannot be stored: %s", room.room_id, refused)
            error = MatrixError("M_UNKNOWN", "The event cannot be stored", 400)
        write.fail(error)
        room.rebuild_after(write, self._clock.now_ms())

    def _lose(self, room: LiveRoom, error: Unavailable) -> None:
        room.lose(error)
        self._lost_room(room)

    def _fail_all(self, batch: Sequence[Write], error: Exception) -> None:
        shown = error if isinstance(error, Unavailable) else Unavailable("The outcome of the write is unknown")
        for write in (*batch, *self._queue):
            if not write.room.lost or write.room.writes:
                self._lose(write.room, shown)
            write.fail(shown)
        self._queue.clear()
        self._waiting_bytes = 0
        self._locked_rooms.give_up_all()


def _event_size(json: bytes) -> int:
    size = _EVENT_BYTES + len(json)
    return size if len(json) < _SMALL_JSON_BYTES else size + json_size(json)


def _one_room(writes: Sequence[Write]) -> bool:
    return all(write.room is writes[0].room for write in writes)
