"""The one way to write into a stream: one fenced statement at a time under this process's lease.

Statements run one after another, so the position order of this writer is its commit order. While a statement is under
way, the writer announces no more than its *floor*: the greatest position that it had seen before it sent the statement.
(The statement takes its positions itself, so they are unknown until the answer; evidence 3.)
"""

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import asyncpg

from shared.core.errors import Fenced
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.pool import (
    CLIENT_LIMIT_S,
    CONNECTION_ERRORS,
    PASSING_ERRORS,
    Connect,
    Connection,
    transient_as_unavailable,
)
from shared.storage.engine.statements import Parameters
from shared.storage.events.locked_rooms import limit_lock_wait
from shared.storage.fleet.leases import is_writing

logger = logging.getLogger(__name__)

#: A statement this old is checked ...
_CHECK_AFTER_S = 1.5
#: ... this often ...
_CHECK_EVERY_S = 0.75
#: ... with this time limit for a check ...
_CHECK_LIMIT_S = 2.0
#: ... until it was idle this many times in a row.
_IDLE_CHECKS = 2


class SeenPositions:
    """The greatest position of each stream that this process saw, in its own rows, in frames and in ticks."""

    def __init__(self) -> None:
        self.greatest: dict[str, int] = {}

    def see(self, stream: str, position: int) -> None:
        if position > self.greatest.get(stream, 0):
            self.greatest[stream] = position


class FencedWriter:
    """The connection for writes of one incarnation.

    lease: the incarnation's number.
    on_fenced: called once, when the lease is lost or the outcome of a statement is unknown. The process then fences
        itself and rejoins from scratch: memory is never guessed.
    """

    def __init__(self, connect: Connect, lease: int, seen: SeenPositions, on_fenced: Callable[[str], None]) -> None:
        self.lease = lease
        self._connect = connect
        self._connection: Connection | None = None
        self._seen = seen
        self._on_fenced = on_fenced
        self._turn = asyncio.Lock()
        # Of each statement whose rows are not announced yet: stream -> the greatest position seen when it was sent.
        self._floors: list[dict[str, int]] = []
        self._fenced = False
        self._lock_wait_ms: int | None = None
        self.statements = 0

    def limit_lock_wait(self, limit_ms: int) -> None:
        """Set how long a statement waits for a lock, from the next connection on.

        Call it before the first write, and not behind a pooler.
        """
        self._lock_wait_ms = limit_ms

    async def write(
        self,
        statement: FencedStatement[Parameters],
        record: Parameters,
        *,
        streams: Sequence[str] = (),
        timeout_s: float = CLIENT_LIMIT_S,
    ) -> asyncpg.Record:
        """Run one fenced statement and return its row.

        record: the statement's parameters.
        streams: the streams in which it may take positions.
        Raises Fenced when the outcome is unknown or the lease is lost, and NotWritten after a lock wait, a time limit
        or an outage of the database. Raises asyncpg's errors for others, such as a violated constraint. Nothing was
        written then.
        """
        floors: dict[str, int] = {}
        values = statement.values(record)
        # In a task of its own: the outcome of the statement must be read, even if the caller is cancelled.
        run = asyncio.get_running_loop().create_task(self._write(statement, values, streams, floors, timeout_s))
        try:
            return await asyncio.shield(run)
        finally:
            # Now, and not when the answer came: the caller announces its rows before it waits for anything else, and a
            # tick before that must not call unannounced rows complete.
            if run.done():
                self._announced(floors)
            else:
                run.add_done_callback(lambda _: self._announced(floors))

    def _announced(self, floors: dict[str, int]) -> None:
        self._floors = [other for other in self._floors if other is not floors]

    async def _write(
        self,
        statement: FencedStatement[Any],
        values: Sequence[Any],
        streams: Sequence[str],
        floors: dict[str, int],
        timeout_s: float,
    ) -> asyncpg.Record:
        async with self._turn:
            if self._fenced:
                raise Fenced("This process has lost its lease")
            conn = await self._connected()
            floors.update((stream, self._seen.greatest.get(stream, 0)) for stream in streams)
            self._floors.append(floors)
            try:
                self.statements += 1
                with transient_as_unavailable(), self._watched(conn):
                    row = await conn.fetchrow(statement.sql, self.lease, *values, timeout=timeout_s)
            except CONNECTION_ERRORS as error:
                self._lose(f"the outcome of {statement.name} is unknown: {type(error).__name__}")
                raise Fenced("The outcome of a write is unknown") from error
            assert row is not None
            if row["fence"] == 0:
                self._lose("its lease was revoked")
                raise Fenced("This process has lost its lease")
            return row

    def drop_idle(self) -> None:
        """Break an idle connection: it may hang. A connection with a statement under way has its own check."""
        if self._connection is not None and not self._turn.locked():
            self._connection.terminate()
            self._connection = None

    def complete_up_to(self, stream: str) -> int:
        """Return a position such that no further row of this writer will appear at or below it."""
        floors = [floors[stream] for floors in self._floors if stream in floors]
        return min(floors) if floors else self._seen.greatest.get(stream, 0)

    async def close(self) -> None:
        """Close the connection. A statement under way is cut, and its task learns that the lease is lost."""
        self._fenced = True
        conn, self._connection = self._connection, None
        if conn is None or conn.is_closed():
            return
        try:
            if self._turn.locked():
                conn.terminate()
            else:
                await conn.close(timeout=1.0)
        except PASSING_ERRORS:
            conn.terminate()

    @contextmanager
    def _watched(self, conn: Connection) -> Iterator[None]:
        """Break the connection if it turns out to hang while a statement is under way."""
        loop = asyncio.get_running_loop()
        watch: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal watch
            watch = loop.create_task(self._watch(conn), name="check a slow statement")

        timer = loop.call_later(_CHECK_AFTER_S, begin)
        try:
            yield
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()

    async def _watch(self, conn: Connection) -> None:
        """Break the connection when Postgres writes nothing under our lease although a write is under way here.

        The statement or its answer was lost on the way. A slow statement, or one that waits for a lock, holds the
        lease's row meanwhile, behind a pooler too. It is checked twice, since a statement takes that row a moment after
        it arrives. A mistake costs a new incarnation and nothing else.
        """
        idle = 0
        while True:
            try:
                async with asyncio.timeout(_CHECK_LIMIT_S):
                    idle = 0 if await self._is_writing() else idle + 1
            except PASSING_ERRORS:
                pass  # the database itself is away or busy: that says nothing about our statement
            if idle == _IDLE_CHECKS:
                break
            await asyncio.sleep(_CHECK_EVERY_S)
        logger.warning("The connection to the database hangs: Postgres writes nothing, and no answer comes")
        conn.terminate()

    async def _is_writing(self) -> bool:
        conn = await self._connect()
        try:
            return await is_writing(conn, self.lease)
        finally:
            conn.terminate()

    async def _connected(self) -> Connection:
        if self._connection is None or self._connection.is_closed():
            try:
                self._connection = await self._new_connection()
            except PASSING_ERRORS as error:
                raise Fenced("The database is not available just now") from error
        return self._connection

    async def _new_connection(self) -> Connection:
        conn = await self._connect()
        if self._lock_wait_ms is not None:
            try:
                await limit_lock_wait(conn, self._lock_wait_ms)
            except BaseException:
                conn.terminate()
                raise
        return conn

    def _lose(self, why: str) -> None:
        if not self._fenced:
            self._fenced = True
            logger.error("This process stops writing: %s", why)
            self._on_fenced(why)
