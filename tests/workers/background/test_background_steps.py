"""Jobs in steps: a step that fails gets smaller, a single item that fails is set aside, and others go on."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from shared.core.errors import Unavailable
from shared.metrics.background import BackgroundMetrics
from shared.storage.engine.pool import Connection, Database, connector
from shared.storage.fleet.background_steps import count_set_aside, list_set_aside, run_step
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from workers.background.watch import BackgroundWatch

_NAME = "search index"
_REGISTRY_NAME = {"step": _NAME}
_FAIL = """
    CREATE FUNCTION fail(state text) RETURNS int LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'no' USING ERRCODE = state; END $$
"""


@asynccontextmanager
async def _database(postgres: TestDatabase) -> AsyncIterator[Database]:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=4)
    await database.execute("CREATE TABLE items (number bigint PRIMARY KEY, done boolean NOT NULL DEFAULT false)")
    yield database
    await database.close()


class _Numbers:
    """Marks numbers as done. Those in `bad` fail, and so does a step with more than `too_many` items."""

    name = _NAME
    size = 64

    def __init__(self, bad: set[int], too_many: int = 64, error: str = "1 / 0") -> None:
        self.bad = bad
        self.too_many = too_many
        self.error = error
        self.limits: list[int] = []

    async def has_work(self, conn: Connection) -> bool:
        waits: bool = await conn.fetchval("SELECT EXISTS (SELECT FROM items WHERE NOT done)")
        return waits

    async def work(self, conn: Connection, limit: int) -> bool:
        self.limits.append(limit)
        taken = await conn.fetch("SELECT number FROM items WHERE NOT done ORDER BY number LIMIT $1", limit)
        numbers = [row[0] for row in taken]
        await conn.execute("UPDATE items SET done = true WHERE number = ANY($1)", numbers)
        if self.bad.intersection(numbers) or len(numbers) > self.too_many:
            await conn.execute(f"SELECT {self.error}")
        return True

    async def skip(self, conn: Connection) -> str | None:
        number = await conn.fetchval("SELECT min(number) FROM items WHERE NOT done")
        await conn.execute("UPDATE items SET done = true WHERE number = $1", number)
        return str(number)


async def _all(database: Database, step: _Numbers) -> int:
    steps = 0
    while await run_step(database, step):
        steps += 1
        assert steps < 200
    return steps


async def _fill(database: Database, count: int) -> None:
    await database.execute("INSERT INTO items SELECT generate_series(1, $1::int)", count)


async def test_single_bad_items_are_set_aside_and_all_others_done(postgres: TestDatabase) -> None:
    async with _database(postgres) as database:
        await _fill(database, 1000)
        steps = await _all(database, _Numbers({7, 8, 500}))
        assert await database.fetchval("SELECT count(*) FROM items WHERE done") == 1000
        assert {each.item for each in await list_set_aside(database, 10)} == {"7", "8", "500"}
        assert all("division by zero" in each.reason for each in await list_set_aside(database, 10))
        assert steps < 80
        assert await database.fetchval("SELECT failures FROM background_steps WHERE step = $1", _NAME) <= 1


async def test_step_that_is_too_large_is_halved_and_nothing_set_aside(postgres: TestDatabase) -> None:
    async with _database(postgres) as database:
        await _fill(database, 300)
        # What PostgreSQL says at the time limit of a statement.
        await database.execute(_FAIL)
        step = _Numbers(set(), too_many=20, error="fail('57014')")
        await _all(database, step)
        assert await database.fetchval("SELECT count(*) FROM items WHERE done") == 300
        assert await list_set_aside(database, 10) == []
        assert min(step.limits) == 16


async def test_item_with_which_processes_die_is_set_aside(postgres: TestDatabase) -> None:
    """A process that dies leaves its count behind. Nothing else tells the next one."""

    class _Dies(_Numbers):
        async def work(self, conn: Connection, limit: int) -> bool:
            taken = await conn.fetch("SELECT number FROM items WHERE NOT done ORDER BY number LIMIT $1", limit)
            if any(row[0] == 9 for row in taken):
                raise KeyboardInterrupt
            return await super().work(conn, limit)

    async with _database(postgres) as database:
        await _fill(database, 100)
        step, deaths = _Dies(set()), 0
        while True:
            try:
                if not await run_step(database, step):
                    break
            except KeyboardInterrupt:
                deaths += 1
                assert deaths < 40
        assert await database.fetchval("SELECT count(*) FROM items WHERE done") == 100
        assert [each.item for each in await list_set_aside(database, 10)] == ["9"]


async def test_outages_and_locks_set_nothing_aside(postgres: TestDatabase) -> None:
    async with _database(postgres) as database:
        await _fill(database, 1)
        await database.execute(_FAIL)
        for state in ("55P03", "53100", "58030", "57P01"):
            for _ in range(20):
                with pytest.raises(Unavailable):
                    await run_step(database, _Numbers({1}, error=f"fail('{state}')"))
        assert await list_set_aside(database, 10) == []
        assert await _all(database, _Numbers(set())) == 1


async def test_stall_is_measured_by_every_process(postgres: TestDatabase) -> None:
    async with _database(postgres) as database:
        clock, registry = MockClock(0.0), CollectorRegistry()
        watch = BackgroundWatch(database, BackgroundMetrics(registry), clock)
        await watch.measure()
        clock.advance(100)
        await watch.measure()
        assert registry.get_sample_value("skep_background_stalled_seconds", _REGISTRY_NAME) == 0, "it has no work"
        await database.execute("SELECT nextval('stream_events')")
        await watch.measure()
        clock.advance(400)
        await watch.measure()
        assert registry.get_sample_value("skep_background_stalled_seconds", _REGISTRY_NAME) == 400
        assert registry.get_sample_value("skep_background_behind", _REGISTRY_NAME) == 1
        await database.execute("UPDATE search_progress SET position = 1")
        await watch.measure()
        assert registry.get_sample_value("skep_background_stalled_seconds", _REGISTRY_NAME) == 0
        assert await count_set_aside(database) == dict.fromkeys(
            (_NAME, "user directory: accounts", "user directory: rooms"), 0
        )
