"""The database as the queries of a sync use it. Each statement is counted in a metric."""

from typing import Any

import asyncpg

from shared.metrics.synchrotron import SyncMetrics
from shared.storage.engine.pool import Database


class CountedQueries:
    """A `shared.storage.engine.pool.Source` that counts its statements."""

    def __init__(self, database: Database, metrics: SyncMetrics) -> None:
        self._database = database
        self._metrics = metrics

    async def fetch(self, sql: str, *args: Any) -> list[asyncpg.Record]:
        self._metrics.queries.inc()
        return await self._database.fetch(sql, *args)

    async def fetchrow(self, sql: str, *args: Any) -> asyncpg.Record | None:
        self._metrics.queries.inc()
        return await self._database.fetchrow(sql, *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        self._metrics.queries.inc()
        return await self._database.fetchval(sql, *args)
