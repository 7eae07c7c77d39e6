"""Following streams in one process: rows from Redis, gaps repaired from Postgres.

The rules are in `session.py` and `ephemeral_session.py` (pure). This module does the I/O for them. Redis only makes it
faster: while Redis is away or a writer is silent, the rows above the vector are read from Postgres every second.
"""

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import msgspec

from replication.bus import wire
from replication.bus.transport import Transport
from replication.streams import Kind, Stream
from replication.streams.ephemeral_session import EphemeralSession
from replication.streams.fenced_writer import SeenPositions
from replication.streams.repeats import RepeatRequests
from replication.streams.session import Outcome, StreamSession, WriterState
from shared.config.sections import Replication as ReplicationConfig
from shared.core.errors import Unavailable
from shared.core.sync_tokens.vector import Vector
from shared.metrics.replication import ReplicationMetrics
from shared.runtime.clock import Clock
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import get_writers
from shared.storage.streams.catch_up import first_page, pages

logger = logging.getLogger(__name__)

#: Called with rows that are new to this process, in an order that is safe to apply.
Listener: TypeAlias = Callable[[Sequence[Any]], None]
#: Called with a writer and a position of an ephemeral stream: the writer's values up to there that it has not repeated
#: are over.
OverListener: TypeAlias = Callable[[int, int], None]
_PAGE = 1000  # rows of one catch-up statement


class _Followed:
    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.session = EphemeralSession(stream.name) if stream.kind is Kind.EPHEMERAL else StreamSession(stream.name)
        self.listeners: list[Listener] = []
        self.over_listeners: list[OverListener] = []
        self.decoder = wire.row_decoder(stream.row)
        self.repairing: asyncio.Task[None] | None = None
        self.repair_again = False
        self.advanced = asyncio.Event()
        self.heard_at: dict[int, float] = {}


class Follower:
    """The reader's side of the streams: a vector per stream, and listeners that get the new rows."""

    def __init__(
        self,
        database: Database,
        transport: Transport,
        seen: SeenPositions,
        config: ReplicationConfig,
        clock: Clock,
        tasks: TaskGroup,
        metrics: ReplicationMetrics,
    ) -> None:
        self._database = database
        self._transport = transport
        self._seen = seen
        self._config = config
        self._clock = clock
        self._tasks = tasks
        self._metrics = metrics
        self._followed: dict[str, _Followed] = {}
        self._notices: dict[str, list[Callable[[], None]]] = {}
        self._tick_listeners: list[Callable[[wire.Tick], None]] = []
        self._repeat_requests = RepeatRequests(transport, clock)
        self._on_repeat_request: tuple[int, Callable[[str], None]] | None = None

    def follow(self, stream: Stream, listener: Listener, over: OverListener | None = None) -> None:
        """Add a listener of a stream, before `start`. Listeners of one stream are called in the order of their adding.

        over: for ephemeral streams.
        """
        followed = self._followed.setdefault(stream.name, _Followed(stream))
        followed.listeners.append(listener)
        if over is not None:
            followed.over_listeners.append(over)

    def on_repeat_request(self, lease: int, callback: Callable[[str], None]) -> None:
        """Listen for requests to repeat a stream of this lease, before `start`. callback: gets the stream's name."""
        self._on_repeat_request = lease, callback

    def on_notice(self, topic: str, callback: Callable[[], None]) -> None:
        self._notices.setdefault(topic, []).append(callback)

    def on_tick(self, callback: Callable[[wire.Tick], None]) -> None:
        """Listen to the ticks of every writer."""
        self._tick_listeners.append(callback)

    async def start(self) -> None:
        """Take a position in every followed stream, then listen. Returns once the vectors are honest."""
        async with self._database.snapshot() as snapshot:
            known, writers = await get_writers(snapshot, 0, [])
        for followed in self._followed.values():
            name = followed.stream.name
            followed.session.learn_writers(
                known,
                # Memory is empty, so the session begins where the writers are. Older rows come from Postgres.
                [
                    WriterState(w.writer, w.final if w.final is not None else max(w.reached or 0, w.start), w.final)
                    for w in writers
                    if w.stream == name
                ],
            )
        channels = [followed.stream.channel for followed in self._followed.values()]
        if self._on_repeat_request is not None:
            channels.append(wire.REPEATS)
        self._transport.subscribe([*channels, wire.TICKS, wire.CONTROL], self._received, self._connection_made)
        for followed in self._followed.values():
            await self._repair(followed)
        self._tasks.forever(self._watch, "replication: watch for silence")

    @property
    def followed(self) -> Iterable[str]:
        """The names of the streams that this process reads."""
        return self._followed.keys()

    def vector(self, stream: Stream) -> Vector:
        return self._followed[stream.name].session.vector()

    def vectors(self) -> dict[str, Vector]:
        return {name: followed.session.vector() for name, followed in self._followed.items()}

    def covers(self, stream: Stream, wanted: Vector) -> bool:
        return self._followed[stream.name].session.covers(wanted)

    async def wait_for(self, stream: Stream, wanted: Vector, timeout_s: float) -> bool:
        """Wait until this process has applied everything up to `wanted`. After 100 ms it reads Postgres itself.

        Returns False when the time is over. The caller answers 503, or with what it has.
        """
        followed = self._followed[stream.name]
        if followed.session.covers(wanted):
            return True
        deadline = self._clock.monotonic_s() + timeout_s
        patience_s = 0.1
        while not followed.session.covers(wanted):
            left = deadline - self._clock.monotonic_s()
            if left <= 0:
                return False
            followed.advanced.clear()
            try:
                async with asyncio.timeout(min(left, patience_s)):
                    await followed.advanced.wait()
            except TimeoutError:
                self._repair_soon(followed, writers=wanted.known > followed.session.known)
                patience_s = 0.5
        return True

    async def read_now(self, stream: Stream) -> None:
        """Apply the rows of a stored stream in Postgres above our vector: one statement, mostly without rows.

        Raises Unavailable.
        """
        followed = self._followed[stream.name]
        session = followed.session
        assert isinstance(session, StreamSession)
        columns = await first_page(self._database, stream.catch_up, session.least_position, _PAGE)
        outcome = session.repaired([self._row(stream, row) for row in columns])
        self._carry_out(followed, outcome)
        if outcome.writers or len(columns) == _PAGE:
            await self._repair(followed)

    # -- messages

    def _received(self, channel: str, message: bytes) -> None:
        try:
            if channel == wire.TICKS:
                self._received_tick(wire.decode_tick(message))
            elif channel == wire.CONTROL:
                self._received_notice(wire.decode_notice(message).topic)
            elif channel == wire.REPEATS:
                request = wire.decode_repeat_request(message)
                if self._on_repeat_request is not None and request.writer == self._on_repeat_request[0]:
                    self._on_repeat_request[1](request.stream)
            else:
                self._received_frame(wire.decode_frame(message))
        except (wire.WireError, msgspec.DecodeError) as error:
            self._metrics.ignored.inc()
            logger.warning("A message on %s was ignored: %s", channel, error)

    def _received_notice(self, topic: str) -> None:
        for callback in self._notices.get(topic, ()):
            callback()
        if topic == "slots":
            # A lease may have ended. The ephemeral values of its process are then over.
            for followed in self._followed.values():
                if followed.stream.kind is Kind.EPHEMERAL:
                    self._repair_soon(followed, writers=True)

    def _received_frame(self, frame: wire.Frame) -> None:
        followed = self._followed.get(frame.stream)
        if followed is None:
            return
        rows = [followed.decoder.decode(row) for row in frame.rows]
        if followed.stream.kind is not Kind.EPHEMERAL:
            self._seen.see(frame.stream, frame.current)
        followed.heard_at[frame.writer] = self._clock.monotonic_s()
        self._carry_out(followed, followed.session.receive(frame, rows))

    def _received_tick(self, tick: wire.Tick) -> None:
        now = self._clock.monotonic_s()
        for callback in self._tick_listeners:
            callback(tick)
        for stream, position in tick.seen.items():
            self._seen.see(stream, position)
        for followed in self._followed.values():
            if followed.stream.name in tick.progress:
                followed.heard_at[tick.writer] = now
                self._carry_out(followed, followed.session.tick(tick))
                followed.advanced.set()

    def _connection_made(self) -> None:
        # Delivery is at most once, so a new connection is a gap in every stream.
        for followed in self._followed.values():
            self._repair_soon(followed, writers=True)
        for callback in self._notices.get("slots", ()):
            callback()

    def _carry_out(self, followed: _Followed, outcome: Outcome) -> None:
        if outcome.rows:
            self._apply(followed, outcome.rows)
        for writer, position in outcome.over:
            self._repeat_requests.forget(followed.stream.name, writer)
            for listener in followed.over_listeners:
                listener(writer, position)
        if outcome.ask:
            self._metrics.gaps.labels(followed.stream.name).inc()
            self._repeat_requests.send(followed.stream.name, outcome.ask)
        if outcome.repair:
            self._metrics.gaps.labels(followed.stream.name).inc()
            self._repair_soon(followed, writers=outcome.writers)

    def _apply(self, followed: _Followed, rows: Sequence[Any]) -> None:
        for listener in followed.listeners:
            listener(rows)
        self._metrics.rows.labels(followed.stream.name).inc(len(rows))
        followed.advanced.set()

    # -- repair from Postgres

    def _repair_soon(self, followed: _Followed, *, writers: bool = False) -> None:
        if followed.stream.kind is Kind.EPHEMERAL and not writers:
            return
        if followed.repairing is not None and not followed.repairing.done():
            followed.repair_again = True
            return
        followed.repairing = self._tasks.spawn(
            self._repair_until_done(followed), f"replication: repair {followed.stream.name}"
        )

    async def _repair_until_done(self, followed: _Followed) -> None:
        followed.repair_again = True
        while followed.repair_again:
            followed.repair_again = False
            try:
                await self._repair(followed)
            except Unavailable as error:
                logger.warning("The repair of stream %s waits for the database: %s", followed.stream.name, error)
                followed.repair_again = True
                await asyncio.sleep(self._config.tick_s)

    async def _repair(self, followed: _Followed) -> None:
        """Read all writers' rows above the session's least position, page by page, and advance idle writers."""
        session = followed.session
        name = followed.stream.name
        async with self._database.snapshot() as snapshot:
            known, writers = await get_writers(snapshot, session.known, list(session.positions))
            mine = [writer for writer in writers if writer.stream == name]
            states = [WriterState(w.writer, w.start, w.final) for w in mine]
            self._carry_out(followed, session.learn_writers(known, states))
            if isinstance(session, EphemeralSession):
                return
            async for page in pages(snapshot, followed.stream.catch_up, session.least_position, _PAGE):
                rows = [self._row(followed.stream, columns) for columns in page]
                self._seen.see(name, rows[-1].position)
                self._carry_out(followed, session.repaired(rows))
        # A writer stores its progress after its rows, so a snapshot that shows the progress shows the rows. The same
        # holds for the end of a dead writer. Its last row may be gone: a state stream keeps each key's newest row only.
        ends = {w.writer: w.reached if w.final is None else w.final for w in mine}
        session.advance_idle_writers({writer: end for writer, end in ends.items() if end is not None})
        self._metrics.repairs.labels(name).inc()
        followed.advanced.set()

    @staticmethod
    def _row(stream: Stream, columns: Mapping[str, Any]) -> Any:
        return stream.row(**{name: value for name, value in columns.items() if name in stream.row.__struct_fields__})

    async def _watch(self) -> None:
        """Read Postgres once a second while Redis is away or a living writer is silent."""
        await asyncio.sleep(self._config.tick_s * random.uniform(0.8, 1.2))  # noqa: S311 - jitter
        now = self._clock.monotonic_s()
        for followed in self._followed.values():
            session = followed.session
            alive = [writer for writer in session.positions if writer not in session.finals]
            silent = any(
                now - followed.heard_at.setdefault(writer, now) > self._config.silent_after_s for writer in alive
            )
            if not self._transport.connected or silent:
                self._repair_soon(followed, writers=True)
