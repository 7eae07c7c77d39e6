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
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from replication.rows import EventRow
from shared.core.errors import MatrixError, SkepError, Unavailable
from shared.metrics.persister import PersisterMetrics
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage import client_transactions
from shared.storage.events import (
    ACCEPTED,
    EventBatch,
    EventToStore,
    FencedWrite,
    StatementRefused,
    commit_events,
)
from workers.event_persister.drafts import BuiltEvent, Write
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
        self._local_part = ":" + server_name
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
        batch = self._batch_of(writes)
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
            rows.extend(self._rows(write.room, mine))
            write.room.committed(write, [position for _, position in mine], self._lease)
        self._announce(rows)
        for write in writes:
            if not write.done.done():
                write.done.set_result([built.event.event_id for built in write.built])

    def _rows(self, room: LiveRoom, stored: Sequence[tuple[EventToStore, int]]) -> Iterator[EventRow]:
        # Only the first event after another writer's names it: from then on the predecessor is ours.
        prior = (room.last_writer, room.last_position) if room.last_writer not in (0, self._lease) else (None, None)
        for event, position in stored:
            yield EventRow(
                position=position, writer=self._lease, room_nid=event.room_nid, room_id=room.room_id,
                room_version=room.version.name, event_nid=event.event_nid, event_id=event.event_id,
                ordinal=event.ordinal, type=event.type, state_key=event.state_key, sender=event.sender,
                origin_server_ts=event.origin_server_ts, status=ACCEPTED, replaces_nid=event.replaces_nid,
                redacted_by=event.redacted_by, txn_device=event.txn_device, txn_id=event.txn_id, json=event.json,
                prior_writer=prior[0], prior_position=prior[1], redacts_nid=event.redacts_nid,
            )  # fmt: skip
            prior = (None, None)

    def _batch_of(self, writes: Sequence[Write]) -> EventBatch:
        batch = EventBatch()
        redacted: dict[int, tuple[int, int]] = {}  # redacted event -> (its room, the first redaction of it)
        for write in writes:
            for built in write.built:
                if built.redacts_nid is not None:
                    redacted.setdefault(built.redacts_nid, (write.room.room_nid, built.event_nid))
        for write in writes:
            room = write.room
            for built in write.built:
                # An UPDATE does not see what its own statement inserts: such a row is redacted from the start.
                redaction = redacted.pop(built.event_nid, None) if redacted else None
                batch.events.append(_to_store(room, built, None if redaction is None else redaction[1]))
                if built.membership is not None:
                    user_id = built.event.state_key or ""
                    batch.memberships.append(
                        (built.event_nid, user_id, built.membership, user_id.endswith(self._local_part))
                    )
            last = write.built[-1]
            batch.extremities[room.room_nid] = (last.event_nid,)
            if write.key is not None:
                batch.transactions.append((room.room_nid, write.key, last.event.event_id, last.event.origin_server_ts))
            if (new := write.new_room) is not None:
                batch.rooms.append(
                    (
                        room.room_nid,
                        room.room_id,
                        room.version.name,
                        new.creator,
                        new.is_public,
                        new.created_ms,
                    )
                )
                if new.alias is not None:
                    batch.aliases.append((new.alias, room.room_nid, new.creator, new.created_ms))
        batch.redacted = [(room_nid, nid, by) for nid, (room_nid, by) in redacted.items()]
        return batch

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


def _to_store(room: LiveRoom, built: BuiltEvent, redacted_by: int | None) -> EventToStore:
    event = built.event
    return EventToStore(
        room.room_nid, built.event_nid, event.event_id, built.ordinal, event.depth, event.type, event.state_key,
        event.sender, event.origin_server_ts, built.prev_nids, built.auth_nids, built.replaces_nid, redacted_by,
        built.redacts_nid, built.draft.device, built.draft.txn_id, event.encoded,
    )  # fmt: skip
