"""Errors of PostgreSQL that say nothing about the request are `Unavailable` everywhere: 503 with Retry-After."""

import inspect
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.core.errors import Unavailable
from shared.storage.engine.pool import PASSING_ERRORS, Connection, Database
from shared.storage.engine.statements import NoParameters
from shared.storage.events.delayed import BALANCE_SHARDS

#: Connections, resources, operators, the system, internal errors; conflicts. And sessions that were ended for their
#: silence.
_CLASSES = ("08", "53", "57", "58", "XX", "40", "25P03")
_ERRORS = sorted(
    {
        error
        for _, error in inspect.getmembers(asyncpg.exceptions, inspect.isclass)
        if issubclass(error, asyncpg.PostgresError) and str(getattr(error, "sqlstate", None)).startswith(_CLASSES)
    }
    | {asyncpg.InternalClientError, asyncpg.InterfaceError, ConnectionResetError, TimeoutError},
    key=lambda error: error.__name__,
)


class _Connection:
    """A connection whose statements fail."""

    def __init__(self, error: type[Exception]) -> None:
        self._error = error

    async def fetchrow(self, *args: Any, **more: Any) -> Any:
        raise self._error("an outage")

    fetch = execute = fetchval = fetchrow

    def is_closed(self) -> bool:
        return False

    def is_in_transaction(self) -> bool:
        return False

    def terminate(self) -> None:
        pass


def _connect(error: type[Exception]) -> Callable[[], Awaitable[Connection]]:
    async def connect() -> Any:
        return _Connection(error)

    return connect


def _no_connection(error: type[Exception]) -> Callable[[], Awaitable[Connection]]:
    async def connect() -> Any:
        raise error("an outage")

    return connect


@pytest.mark.parametrize("error", _ERRORS, ids=lambda error: error.__name__)
async def test_outage_is_unavailable_everywhere(error: type[Exception]) -> None:
    for connect in (_connect(error), _no_connection(error)):
        database = Database(connect, max_connections=1)
        for call in (database.fetch, database.fetchrow, database.fetchval, database.execute):
            with pytest.raises(Unavailable):
                await call("SELECT 1")
        with pytest.raises(Unavailable):
            async with database.connection() as conn:
                await conn.fetch("SELECT 1")
        writer = FencedWriter(connect, 1, SeenPositions(), lambda why: None)
        with pytest.raises(Unavailable):
            await writer.write(BALANCE_SHARDS, NoParameters())
    assert issubclass(error, PASSING_ERRORS)


def test_classes_have_the_errors_that_were_seen() -> None:
    names = {error.__name__ for error in _ERRORS}
    assert {"DiskFullError", "OutOfMemoryError", "PostgresIOError", "DataCorruptedError", "CrashShutdownError"} <= names
    assert not issubclass(asyncpg.UniqueViolationError, PASSING_ERRORS)
