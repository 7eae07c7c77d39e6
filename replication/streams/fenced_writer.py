"""The one way to write into a stream: one fenced statement at a time under this process's lease.

Since statements go one after another, the position order of this writer is its commit order. While a statement is
under way the writer announces no more than its *floor*: the greatest position that it had seen before it sent the
statement (a position is taken inside the statement, so nobody knows it until the answer; evidence 3).
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
    passing_as_unavailable,
)
from shared.storage.events.locked_rooms import limit_lock_wait
from shared.storage.fleet.leases import is_writing

logger = logging.getLogger(__name__)

#: A statement that is so old is looked at, so often and within so long, until it has been seen idle so many times.
_LOOK_AFTER_S = 1.5
_LOOK_EVERY_S = 0.75
_LOOK_LIMIT_S = 2.0
_IDLE_LOOKS = 2


class SeenPositions:
    """The greatest position of each stream that this process saw: its own rows', frames', ticks'."""

    def __init__(self) -> None:
        self.greatest: dict[str, int] = {}

    def see(self, stream: str, position: int) -> None:
        if position > self.greatest.get(stream, 0):
            self.greatest[stream] = position


class FencedWriter:
    """lease: this incarnation's number. on_fenced: called once when the lease is lost, or the outcome of a statement
    is unknown (the process then fences itself and begins anew: memory is never guessed)."""

    def __init__(self, connect: Connect, lease: int, seen: SeenPositions, on_fenced: Callable[[str], None]) -> None:
        self.lease = lease
        self._connect = connect
        self._connection: Connection | None = None
        self._seen = seen
        self._on_fenced = on_fenced
        self._turn = asyncio.Lock()
        # Of each statement whose rows are not announced yet: stream -> what had been seen when it was sent.
        self._floors: list[dict[str, int]] = []
        self._fenced = False
        self._lock_wait_ms: int | None = None
        self.statements = 0

    def limit_lock_wait(self, limit_ms: int) -> None:
        """From the next connection on: how long a statement waits for a lock, in place of the connection's default.

        Call before the first write, and not behind a pooler.
        """
        self._lock_wait_ms = limit_ms

    async def write(
        self, statement: FencedStatement, *args: Any, streams: Sequence[str] = (), timeout_s: float = CLIENT_LIMIT_S
    ) -> asyncpg.Record:
        """Run one fenced statement and return its row.

        args: from $2 on. streams: those in which it may take positions.
        Raises Fenced when the outcome is unknown or the lease is lost. Raises NotWritten for a lock, a time limit or an
        outage of the database. Other errors of asyncpg, such as a violated constraint, come as they are; nothing was
        written then either.
        """
        floors: dict[str, int] = {}
        # In a task of its own: a caller that goes away must not leave a statement whose outcome nobody reads.
        run = asyncio.get_running_loop().create_task(self._write(statement, args, streams, floors, timeout_s))
        try:
            return await asyncio.shield(run)
        finally:
            # Only now, and not when the answer came: until the caller goes on, and announces its rows before it waits
            # for anything else, a tick in between must not call complete what nobody has been told of.
            if run.done():
                self._announced(floors)
            else:
                run.add_done_callback(lambda _: self._announced(floors))

    def _announced(self, floors: dict[str, int]) -> None:
        self._floors = [other for other in self._floors if other is not floors]

    async def _write(
        self,
        statement: FencedStatement,
        args: tuple[Any, ...],
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
                with passing_as_unavailable(), self._watched(conn):
                    row = await conn.fetchrow(statement.sql, self.lease, *args, timeout=timeout_s)
            except CONNECTION_ERRORS as error:
                self._lose(f"the outcome of {statement.name} is unknown: {type(error).__name__}")
                raise Fenced("The outcome of a write is unknown") from error
            assert row is not None
            if row["fence"] == 0:
                self._lose("its lease was revoked")
                raise Fenced("This process has lost its lease")
            return row

    def drop_idle(self) -> None:
        """Break the connection where it is idle: it may hang. One with a statement under way is looked after."""
        if self._connection is not None and not self._turn.locked():
            self._connection.terminate()
            self._connection = None

    def complete_up_to(self, stream: str) -> int:
        """Nothing of this writer at or below the answer will still appear in the stream."""
        floors = [floors[stream] for floors in self._floors if stream in floors]
        return min(floors) if floors else self._seen.greatest.get(stream, 0)

    async def close(self) -> None:
        """Close the connection; in the middle of a statement it is cut, and its task learns that the lease is lost."""
        self._fenced = True
        conn, self._connection = self._connection, None
        if conn is None or conn.is_closed():
            return
        try:
            if self._turn.locked():
                conn.terminate()
            else:
                await conn.close(timeout=1.0)
        except CONNECTION_ERRORS:
            conn.terminate()

    @contextmanager
    def _watched(self, conn: Connection) -> Iterator[None]:
        """Break the connection if it turns out to hang while a statement is under way."""
        loop = asyncio.get_running_loop()
        watch: asyncio.Task[None] | None = None

        def begin() -> None:
            nonlocal watch
            watch = loop.create_task(self._watch(conn), name="look after a slow statement")

        timer = loop.call_later(_LOOK_AFTER_S, begin)
        try:
            yield
        finally:
            timer.cancel()
            if watch is not None:
                watch.cancel()

    async def _watch(self, conn: Connection) -> None:
        """Break the connection when nothing is being written under our lease, though we wait for the end of a write.

        The statement, or its answer, is then lost on the way. A slow one, or one that waits for a lock of others, holds
        the lease's row meanwhile, behind a pooler too. Twice, since it takes that row a moment after it arrived. A
        mistake costs a new incarnation and nothing else.
        """
        idle = 0
        while True:
            try:
                async with asyncio.timeout(_LOOK_LIMIT_S):
                    idle = 0 if await self._is_writing() else idle + 1
            except (*CONNECTION_ERRORS, *PASSING_ERRORS):
                pass  # the database itself is away or busy: that tells nothing of our statement
            if idle == _IDLE_LOOKS:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
        logger.warning("The connection to the database hangs: nothing is being written, and no answer comes")
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
            except CONNECTION_ERRORS as error:
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
