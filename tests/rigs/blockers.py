"""Row locks that hold statements at a point, so that a test can let others overtake them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from tests.rigs.waiting import until

_WAITING = """
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND pid <> pg_backend_pid()
"""


class Blocker:
    """An open transaction with locks that others wait for."""

    def __init__(self, conn: asyncpg.Connection, watch: asyncpg.Connection) -> None:
        self._conn = conn
        self._watch = watch

    async def execute(self, sql: str, *args: Any) -> None:
        """Run a statement in the transaction."""
        await self._conn.execute(sql, *args)

    async def waiting(self) -> int:
        """Return the number of statements that wait for a lock."""
        count: int = await self._watch.fetchval(_WAITING)
        return count

    async def until_waiting(self, count: int, *others: "asyncio.Task[Any]") -> None:
        """Return once so many statements wait, or all of the other tasks are done."""

        async def reached() -> bool:
            return await self.waiting() >= count or (bool(others) and all(task.done() for task in others))

        await until(reached)

    async def commit(self) -> None:
        """Let the others continue."""
        await self._conn.execute("COMMIT")

    async def roll_back(self) -> None:
        """Undo what the transaction did, and let the others continue."""
        await self._conn.execute("ROLLBACK")


@asynccontextmanager
async def blocker(dsn: str, sql: str, *args: Any) -> AsyncIterator[Blocker]:
    """Open a transaction with this first statement."""
    conn, watch = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
    try:
        await conn.execute("BEGIN")
        await conn.execute(sql, *args)
        yield Blocker(conn, watch)
    finally:
        conn.terminate()
        watch.terminate()


def soon(work: Awaitable[Any]) -> "asyncio.Task[Any]":
    """Begin to wait for work in a task."""
    return asyncio.ensure_future(work)
