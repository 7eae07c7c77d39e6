"""Connections to PostgreSQL: a small pool without asyncpg's reset query (half the cost of a select).

The price is a rule: a connection never carries session state out of a checkout (no SET, no advisory session lock, no
LISTEN). asyncpg's errors end here and in the storage modules: callers see `Unavailable` when the database is away.
"""

import asyncio
import logging
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from shared.core.errors import Unavailable
from shared.storage.engine.text_codec import set_text_codec

logger = logging.getLogger(__name__)

Connection: TypeAlias = asyncpg.Connection
Connect: TypeAlias = Callable[[], Awaitable[Connection]]

#: The errors that asyncpg raises when the server is away or restarting, or the connection broke. The outcome of a write
#: is unknown then.
CONNECTION_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.TooManyConnectionsError,
    asyncpg.exceptions.ReadOnlySQLTransactionError,
    asyncpg.exceptions.IdleInTransactionSessionTimeoutError,  # this process was paused in the middle of a transaction
    asyncpg.exceptions.IdleSessionTimeoutError,
    asyncpg.exceptions.DatabaseDroppedError,
    asyncpg.InternalClientError,  # asyncpg lost track of the protocol: PostgreSQL died in the middle of an answer
)

#: A lock or time limit, a deadlock, a conflict with the replay at a standby (SQLSTATE class 40): nothing was done, and
#: the same statement may succeed later.
TRANSIENT_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.LockNotAvailableError,
    asyncpg.QueryCanceledError,
    asyncpg.exceptions.TransactionRollbackError,
)


#: The database itself is in trouble (SQLSTATE classes 53, 57, 58, XX): a full disk, no memory, a failed read. Nothing
#: was done, and the request is not to blame.
OUTAGE_ERRORS: tuple[type[Exception], ...] = (
    asyncpg.exceptions.InsufficientResourcesError,
    asyncpg.exceptions.OperatorInterventionError,
    asyncpg.exceptions.PostgresSystemError,
    asyncpg.exceptions.InternalServerError,
)

#: Everything that says nothing about the statement itself. It may succeed later.
PASSING_ERRORS = (*CONNECTION_ERRORS, *TRANSIENT_ERRORS, *OUTAGE_ERRORS)


class NotWritten(Unavailable):
    """A statement failed, and nothing was written. The same one may succeed later.

    is_lock: True for a lock or a time limit, False for an outage of the database.
    """

    def __init__(self, message: str, *, is_lock: bool) -> None:
        super().__init__(message)
        self.is_lock = is_lock


class Source(Protocol):
    """A pool or a connection to read from."""

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]: ...
    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None: ...
    async def fetchval(self, sql: str, *args: Any) -> Any: ...


@contextmanager
def transient_as_unavailable() -> Iterator[None]:
    """Turn TRANSIENT_ERRORS and OUTAGE_ERRORS of the body into `NotWritten`, so that the client tries again.

    CONNECTION_ERRORS pass: the outcome is unknown then.
    """
    try:
        yield
    except CONNECTION_ERRORS:
        raise
    except TRANSIENT_ERRORS as error:
        raise NotWritten("The database is too busy now", is_lock=True) from error
    except OUTAGE_ERRORS as error:
        logger.error("The database failed: %s (SQLSTATE %s)", error, getattr(error, "sqlstate", "unknown"))
        raise NotWritten("The database cannot do this now", is_lock=False) from error


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolUse:
    """The use of a pool at one moment.

    lent: connections that run a statement or a transaction.
    idle: open connections that are free.
    waiting: callers that wait for a connection.
    """

    lent: int
    idle: int
    waiting: int


class Database:
    """A bounded pool of connections. Statements are prepared once per connection by asyncpg's own cache.

    max_connections: the most that are open at a time.
    acquire_timeout_s: how long a caller waits for a connection before `Unavailable`.
    """

    def __init__(self, connect: Connect, *, max_connections: int, acquire_timeout_s: float = 10.0) -> None:
        self._connect = connect
        self._max = max_connections
        self._timeout_s = acquire_timeout_s
        self._idle: list[Connection] = []
        self._lent: dict[Connection, None] = {}  # ordered, so that a simulated run is the same each time
        self._open = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        self.statements = 0  # counted, for the load reports: statements per event

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Lend a connection. Raises Unavailable if none is free in time or the database is away."""
        conn = await self._acquire()
        self._lent[conn] = None
        try:
            with transient_as_unavailable():
                yield conn
        except CONNECTION_ERRORS as error:
            self._drop(conn)
            raise Unavailable("The database is not available just now") from error
        except BaseException:
            # A cancelled or failed statement leaves asyncpg's connection usable unless it is in a transaction.
            if conn.is_closed() or conn.is_in_transaction():
                self._drop(conn)
            else:
                self._release(conn)
            raise
        else:
            self._release(conn)
        finally:
            self._lent.pop(conn, None)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Connection]:
        """Lend a connection whose statements all see the database as it is now. Read only."""
        async with self.connection() as conn, conn.transaction(isolation="repeatable_read", readonly=True):
            yield conn

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        async with self.connection() as conn:
            self.statements += 1
            rows: list[asyncpg.Record] = await conn.fetch(sql, *args)
            return rows

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        async with self.connection() as conn:
            self.statements += 1
            return await conn.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        async with self.connection() as conn:
            self.statements += 1
            return await conn.fetchval(sql, *args)

    async def execute(self, sql: str, *args: Any) -> str:
        async with self.connection() as conn:
            self.statements += 1
            status: str = await conn.execute(sql, *args)
            return status

    async def close(self) -> None:
        """Close the idle connections; those on loan are closed when they come back."""
        self._closed = True
        idle, self._idle = self._idle, []
        for conn in idle:
            await _close_quietly(conn)

    def drop_all(self) -> None:
        """Break every connection, lent or idle: they may hang, or their answers are no longer needed.

        Callers that wait on one of them get `Unavailable`.
        """
        idle, self._idle = self._idle, []
        for conn in idle:
            self._drop(conn)
        for conn in self._lent:
            conn.terminate()

    @property
    def use(self) -> PoolUse:
        """The present use of the pool."""
        return PoolUse(lent=len(self._lent), idle=len(self._idle), waiting=len(self._waiters))

    async def _acquire(self) -> Connection:
        try:
            async with asyncio.timeout(self._timeout_s):
                while True:
                    while self._idle:
                        conn = self._idle.pop()
                        if not conn.is_closed():
                            return conn
                        self._open -= 1
                    if self._open < self._max:
                        self._open += 1
                        try:
                            return await self._connect()
                        except BaseException:
                            self._open -= 1
                            self._wake_one()
                            raise
                    waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    try:
                        await waiter
                    except BaseException:
                        if waiter.done() and not waiter.cancelled():
                            self._wake_one()  # this waiter was woken while it was cancelled: wake the next one
                        raise
        except TimeoutError as error:
            raise Unavailable("All database connections are busy") from error
        except PASSING_ERRORS as error:
            raise Unavailable("The database is not available just now") from error

    def _release(self, conn: Connection) -> None:
        if self._closed or conn.is_closed():
            self._drop(conn)
            return
        self._idle.append(conn)
        self._wake_one()

    def _drop(self, conn: Connection) -> None:
        self._open -= 1
        conn.terminate()
        self._wake_one()

    def _wake_one(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return


async def _close_quietly(conn: Connection) -> None:
    try:
        await conn.close(timeout=1.0)
    except PASSING_ERRORS:
        conn.terminate()


def connector(dsn: str, *, pgbouncer: bool, settings: Sequence[tuple[str, str]] = ()) -> Connect:
    """Return the function that opens one connection.

    dsn: may name several hosts, of which the primary is chosen.
    pgbouncer: True for no named prepared statements and no start parameters. These get lost behind a pooler, so that
        the role must carry the time-outs there.
    """
    server_settings = {} if pgbouncer else {"application_name": "skep", **dict(settings)}

    async def connect() -> Connection:
        # `primary` for several hosts only: with one host it would cost a query and forbid nothing useful.
        several = "," in dsn.partition("@")[2].partition("/")[0]
        conn: Connection = await asyncpg.connect(
            dsn,
            statement_cache_size=0 if pgbouncer else 500,
            max_cached_statement_lifetime=0,
            timeout=5.0,
            # Above the server's own limit: a statement that the server ends is known not to have happened.
            command_timeout=CLIENT_LIMIT_S,
            server_settings=server_settings,
            target_session_attrs=SessionAttribute.primary if several else SessionAttribute.any,
        )
        set_text_codec(conn)
        _notice_silence(conn)
        return conn

    return connect


def _notice_silence(conn: Connection) -> None:
    """Break the connection when the other host acknowledges no packets for some seconds.

    A server that works on a statement still acknowledges. Without this, a connection that a firewall forgot waits for
    its answer until the statement's time limit.
    """
    sock = conn._transport.get_extra_info("socket")  # type: ignore[attr-defined]  # asyncpg shows it nowhere else
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _SILENCE:
        # The names are Linux's; elsewhere the system's own, longer limits hold.
        if (number := getattr(socket, option, None)) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, number, value)


#: Four seconds without acknowledgements (ms), or of an idle connection that does not answer probes (s).
_SILENCE = (("TCP_USER_TIMEOUT", 4000), ("TCP_KEEPIDLE", 2), ("TCP_KEEPINTVL", 1), ("TCP_KEEPCNT", 2))
#: The time to wait for the answer to a statement; greater than `statement_timeout`.
CLIENT_LIMIT_S = 35.0
#: The role's limits if there is no pooler: a fenced transaction never outlives its sender for long.
SESSION_LIMITS: tuple[tuple[str, str], ...] = (
    ("statement_timeout", "30s"),
    ("lock_timeout", "1s"),  # a locked row must not stop a batch of other rooms
    ("idle_in_transaction_session_timeout", "10s"),
    ("client_connection_check_interval", "2s"),
    # So that the server notices too when a client's packets get lost, and ends the client's statements.
    ("tcp_keepalives_idle", "2"),
    ("tcp_keepalives_interval", "1"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "5000"),
    ("jit", "off"),
)
