"""Grouped commits: while one statement is under way, the next batch gathers.

An idle server adds no delay to a write; a busy one stores dozens of events with one statement. One statement is under
way at a time (`FencedWriter`), so the position order of this process is its commit order.

A batch that the database refuses is halved until the offending write is alone; that one fails, and the writes of its
room that were built above it are built again. A lost lease, or a statement of which nobody knows how it ended, fails
everything: the process drops its memory and begins anew.
"""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from replication.rows import EventRow
from shared.core.errors import MatrixError, SkepError, Unavailable
from shared.metrics.persister import PersisterMetrics
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage import client_transactions
from shared.storage.events import EventBatch, FencedWrite, StatementRefused, commit_events
from workers.event_persister.batches import batch_of, rows_of
from workers.event_persister.drafts import Write
from workers.event_persister.live_room import LiveRoom

logger = logging.getLogger(__name__)

_MAX_BATCH_EVENTS = 256  # one statement's worth: more only makes the next batch wait
_MAX_BATCH_BYTES = 4 << 20
_MAX_WAITING_EVENTS = 20_000  # some seconds of a busy server; more get 503, which tells clients to slow down


class AlreadySent(SkepError):
    """The write's transaction id was used before, longer ago than memory reaches: ask the database for its answer."""


class Announce(Protocol):
    def __call__(self, rows: Sequence[EventRow]) -> None:
        """Tell the fleet of committed rows, positions ascending."""
        ...


class Committer:
    """lease: under which `write` writes. lost_room: called with a room that somebody else wrote into."""

    def __init__(
        self,
        write: FencedWrite,
        lease: int,
        announce: Announce,
        lost_room: Callable[[LiveRoom], None],
        clock: Clock,
        tasks: TaskGroup,
        metrics: PersisterMetrics,
        server_name: str,
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
        self._waiting_events = 0
        self._running: asyncio.Task[None] | None = None
        self._statements = 0

    def submit(self, write: Write) -> None:
        """Take a built write. Its `done` is set once it is stored and announced, or has failed.

        Writes of one room must come in the order in which they were built.
        """
        self._queue.append(write)
        self._waiting_events += len(write.built)
        self._metrics.waiting.set(len(self._queue))
        if self._running is None or self._running.done():
            self._running = self._tasks.spawn(self._run(), "commit events")

    def check_room_for_more(self) -> None:
        """Raise Unavailable when too many events wait already."""
        if self._waiting_events >= _MAX_WAITING_EVENTS:
            raise Unavailable("Too many events wait to be stored")

    async def finish(self) -> None:
        """Wait until everything that was submitted is stored or has failed."""
        while self._running is not None and not self._running.done():
            await asyncio.wait([self._running])

    def statistics(self) -> dict[str, int]:
        return {
            "waiting": len(self._queue),
            "waiting_events": self._waiting_events,
            "statements": self._statements,
        }

    async def _run(self) -> None:
        while self._queue:
            batch = self._take_batch()
            try:
                await self._commit(batch)
            except Exception as error:
                # Fenced, or a fault of ours after the database had answered: what is stored is unknown to us now.
                self._fail_all(batch, error)
                if not isinstance(error, Unavailable):
                    raise

    def _take_batch(self) -> list[Write]:
        batch: list[Write] = []
        events = size = 0
        while self._queue and (not batch or (events < _MAX_BATCH_EVENTS and size < _MAX_BATCH_BYTES)):
            write = self._queue.popleft()
            batch.append(write)
            events += len(write.built)
            size += sum(len(built.event.encoded) for built in write.built)
        # Building again may have changed their number: an empty queue is the truth.
        self._waiting_events = max(0, self._waiting_events - events) if self._queue else 0
        self._metrics.waiting.set(len(self._queue))
        return batch

    async def _commit(self, writes: Sequence[Write]) -> None:
        # Those that could not be built again after another one failed have nothing left to store.
        writes = [write for write in writes if write.built]
        if not writes:
            return
        batch = batch_of(writes, self._server_name)
        self._metrics.statements.inc()
        self._statements += 1
        started = time.perf_counter()
        try:
            positions = await commit_events(self._write, batch)
        except StatementRefused as refused:
            self._metrics.refused.inc()
            if len(writes) == 1:
                self._refused(writes[0], refused)
                return
            middle = len(writes) // 2
            await self._commit(writes[:middle])
            await self._commit(writes[middle:])
            return
        self._metrics.commit_seconds.observe(time.perf_counter() - started)
        self._metrics.batch_events.observe(len(positions))
        self._metrics.events.inc(len(positions))
        self._stored(writes, batch, positions)

    def _stored(self, writes: Sequence[Write], batch: EventBatch, positions: Sequence[int]) -> None:
        rows: list[EventRow] = []
        taken = iter(zip(batch.events, positions, strict=True))
        for write in writes:
            mine = list(itertools.islice(taken, len(write.built)))
            rows.extend(rows_of(write.room, mine, self._lease))
            write.room.committed(write, [position for _, position in mine], self._lease)
        self._announce(rows)
        for write in writes:
            if not write.done.done():
                write.done.set_result([built.event.event_id for built in write.built])

    def _refused(self, write: Write, refused: StatementRefused) -> None:
        """This write alone was refused: nothing of it was stored."""
        room = write.room
        if refused.constraint in ("events_room_nid_ordinal_key", "rooms_room_id_key"):
            # Somebody else wrote into the room: our copy is old, and so is our view of who owns it.
            logger.warning("Room %s was written by another process", room.room_id)
            room.lose(Unavailable("The room is served by another process now"))
            self._lost_room(room)
            return
        if refused.constraint == client_transactions.PRIMARY_KEY:
            error: Exception = AlreadySent()
        elif refused.constraint == "room_aliases_pkey":
            error = MatrixError("M_ROOM_IN_USE", "This room alias is taken already", 400)
        elif refused.passing:
            error = Unavailable("The room is busy in the database just now")
        else:
            logger.error("An event of room %s cannot be stored: %s", room.room_id, refused)
            error = MatrixError("M_UNKNOWN", "The event cannot be stored", 400)
        write.fail(error)
        room.rebuild_after(write, self._clock.now_ms())

    def _fail_all(self, batch: Sequence[Write], error: Exception) -> None:
        shown = error if isinstance(error, Unavailable) else Unavailable("The outcome of the write is unknown")
        for write in (*batch, *self._queue):
            if not write.room.lost:
                write.room.lose(shown)
                self._lost_room(write.room)
            write.fail(shown)
        self._queue.clear()
        self._waiting_events = 0
