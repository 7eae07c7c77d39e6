"""Jobs in steps: a step that fails is halved, and a single item that fails is set aside.

One bad row, or rows that together are too much for one statement, must not stop a job for ever. Each step commits that
it begins, then does its work in a transaction of its own. So a process that dies in the middle counts as a failure too.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import asyncpg

from shared.storage.engine.pool import PASSING_ERRORS, Connection, Database

logger = logging.getLogger(__name__)

#: A step that takes longer is too large: the database has other work. The role's limit is 30 s.
_LIMIT = "SET LOCAL statement_timeout = '10s'"
#: A single item is set aside after this many more failures without an answer: the process died each time.
_DEATHS = 3

# Use the primary key of background_steps.
_BEGIN = """
    UPDATE background_steps SET failures = failures + 1 WHERE step = (
        SELECT step FROM background_steps WHERE step = $1 AND failures = $2 FOR UPDATE SKIP LOCKED)
"""
_FAILURES = "SELECT failures FROM background_steps WHERE step = $1"
_TAKE = "SELECT 1 FROM background_steps WHERE step = $1 AND failures = $2 FOR UPDATE SKIP LOCKED"
_SUCCEEDED = "UPDATE background_steps SET failures = greatest($2 - 1, 0) WHERE step = $1"
_NOT_COUNTED = "UPDATE background_steps SET failures = $2 WHERE step = $1 AND failures = $2 + 1"
_SET_ASIDE = """
    INSERT INTO set_aside (step, item, reason) VALUES ($1, $2, $3)
    ON CONFLICT (step, item) DO UPDATE SET reason = excluded.reason, at = excluded.at
"""
#: How far behind each step is, and a mark that changes when it moves.
_PROGRESS = """
    WITH stream AS (SELECT CASE WHEN is_called THEN last_value ELSE 0 END AS last FROM stream_events)
    SELECT 'search index' AS step, last - position AS behind, position::text AS mark FROM search_progress, stream
    UNION ALL
    SELECT 'user directory: rooms', last - position, position::text FROM user_directory_progress, stream
    UNION ALL
    SELECT 'user directory: accounts',
           (SELECT count(*) FROM (SELECT FROM user_directory_queue LIMIT 100000) AS q)
           + (users_above IS NOT NULL)::int,
           concat(users_above, ' ', (SELECT min(number) FROM user_directory_queue))
    FROM user_directory_progress
"""
_LIST = "SELECT step, item, reason, at FROM set_aside ORDER BY at DESC LIMIT $1"
_COUNT = "SELECT s.step, count(a.item) FROM background_steps s LEFT JOIN set_aside a USING (step) GROUP BY s.step"
_MAX_REASON_CHARS = 500


class Step(Protocol):
    """The work of one job.

    name: its row in `background_steps`.
    size: the number of items of a step that is not halved.
    """

    name: str
    size: int

    async def has_work(self, conn: Connection) -> bool:
        """Return True if there is anything to do."""
        ...

    async def work(self, conn: Connection, limit: int) -> bool:
        """Do at most `limit` items. Return True if there may be more. conn: in a transaction."""
        ...

    async def skip(self, conn: Connection) -> str | None:
        """Pass over the next item and return its name; None if there is none. conn: in a transaction."""
        ...


@dataclass(frozen=True, slots=True)
class SetAside:
    """An item that a job left out."""

    step: str
    item: str
    reason: str
    at: datetime


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The progress of a step.

    behind: the number of positions or items that it has not reached.
    mark: a text that changes whenever it moves.
    """

    step: str
    behind: int
    mark: str


async def run_step(database: Database, step: Step) -> bool:
    """Do one step. Return True if there may be more. False also while another process does it.

    Raises Unavailable for failures that are not the step's fault.
    """
    async with database.connection() as conn:
        if not await step.has_work(conn):
            return False
        failures: int = await conn.fetchval(_FAILURES, step.name)
        if (await conn.execute(_BEGIN, step.name, failures)).endswith(" 0"):
            return False
        limit = max(1, step.size >> failures)
        try:
            if limit == 1 and step.size >> max(0, failures - _DEATHS) <= 1:
                return await _pass_over(conn, step, failures, "the process died each time")
            return await _do(conn, step, failures, limit)
        except asyncpg.QueryCanceledError as error:
            failed: Exception = error  # it is among OUTAGE_ERRORS, and means that the step is too large
        except PASSING_ERRORS:
            await _take_back(conn, step, failures)
            raise
        except Exception as error:
            failed = error
        logger.warning("%s: a step of %d failed: %s: %s", step.name, limit, type(failed).__name__, failed)
        if limit > 1:
            return True
        return await _pass_over(conn, step, failures, f"{type(failed).__name__}: {failed}")


async def _do(conn: Connection, step: Step, failures: int, limit: int) -> bool:
    async with conn.transaction():
        await conn.execute(_LIMIT)
        if await conn.fetchval(_TAKE, step.name, failures + 1) is None:
            return False
        more = await step.work(conn, limit)
        await conn.execute(_SUCCEEDED, step.name, failures)
        return more


async def _pass_over(conn: Connection, step: Step, failures: int, reason: str) -> bool:
    async with conn.transaction():
        item = await step.skip(conn)
        if item is not None:
            await set_aside(conn, step.name, item, reason)
            logger.error("%s: %s is set aside: %s", step.name, item, reason)
        await conn.execute(_SUCCEEDED, step.name, failures)
    return True


async def _take_back(conn: Connection, step: Step, failures: int) -> None:
    """Undo the count, if the connection still works."""
    if conn.is_closed():
        return
    try:
        await conn.execute(_NOT_COUNTED, step.name, failures)
    except PASSING_ERRORS as error:
        logger.info("%s: an outage is counted as a failure: %s", step.name, error)


async def set_aside(conn: Connection, step: str, item: str, reason: str) -> None:
    """Record an item that the job leaves out."""
    await conn.execute(_SET_ASIDE, step, item, reason[:_MAX_REASON_CHARS])


async def list_set_aside(database: Database, limit: int) -> list[SetAside]:
    """Return the items that were set aside, the latest first."""
    return [SetAside(*row) for row in await database.fetch(_LIST, limit)]


async def count_set_aside(database: Database) -> Mapping[str, int]:
    """Return step -> number of items."""
    return {row[0]: row[1] for row in await database.fetch(_COUNT)}


async def get_progress(database: Database) -> list[StepProgress]:
    """Return the progress of all steps."""
    return [StepProgress(*row) for row in await database.fetch(_PROGRESS)]
