"""The heartbeat beats while the main loop is blocked. A loop that is stuck for good ends the process."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from replication.process.loop_guard import STUCK, LoopGuard
from replication.process.membership import HeartLoop, Membership
from shared.config.sections import Replication
from shared.metrics.replication import LoopMetrics
from shared.runtime.clock import SystemClock
from shared.runtime.side_loop import SideLoop
from shared.storage.engine.pool import connector
from shared.storage.fleet.leases import fence
from tests.fix_servers import TestDatabase
from tests.rigs.waiting import until

_CONFIG = Replication(heartbeat_s=0.1, dead_after_s=3.0, stuck_after_s=1.5)


def block(seconds: float) -> None:
    """Keep the loop busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


class Beating:
    """A process with a heartbeat."""

    def __init__(self, postgres: TestDatabase, heart: HeartLoop | None) -> None:
        connect = connector(postgres.dsn, pgbouncer=False)
        self.lost: list[str] = []
        self.slots = 0
        self.membership = Membership(
            connect,
            _CONFIG,
            SystemClock(),
            name="p1",
            worker_type="client_api",
            address="127.0.0.1:1",
            version="0",
            streams=(),
            heart=heart,
        )

    async def run(self) -> None:
        await self.membership.run(dict, self._on_slots, self.lost.append)

    def _on_slots(self) -> None:
        self.slots += 1


@asynccontextmanager
async def side_loop() -> AsyncIterator[SideLoop]:
    side = SideLoop("heart")
    try:
        yield side
    finally:
        await side.close()


@asynccontextmanager
async def running(work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def silent_s(conn: asyncpg.Connection, lease: int) -> float:
    query = "SELECT extract(epoch FROM clock_timestamp() - seen_at)::float8 FROM heartbeats WHERE lease = $1"
    found: float = await conn.fetchval(query, lease)
    return found


async def test_lease_outlives_a_blocked_loop(postgres: TestDatabase) -> None:
    async with side_loop() as side:
        process = Beating(postgres, side)
        lease = await process.membership.join()
        watcher = await asyncpg.connect(postgres.dsn)
        async with running(process.run):
            await until(lambda: process.slots > 0)
            block(1.5 * _CONFIG.dead_after_s)
            assert process.membership.in_good_standing
            assert await silent_s(watcher, lease) < _CONFIG.dead_after_s
        await process.membership.leave()
        has_left = not process.membership.in_good_standing
        assert has_left
        assert await watcher.fetchval("SELECT count(*) FROM leases WHERE lease = $1", lease) == 0
        await watcher.close()
    assert not process.lost


async def test_heartbeat_on_the_main_loop_shares_its_fate(postgres: TestDatabase) -> None:
    process = Beating(postgres, None)
    await process.membership.join()
    async with running(process.run):
        await until(lambda: process.slots > 0)
        block(1.2 * _CONFIG.dead_after_s)
        assert not process.membership.in_good_standing
    await process.membership.leave()


async def test_process_fenced_while_its_loop_is_blocked_answers_nothing(postgres: TestDatabase) -> None:
    """The main loop has not heard of it when it runs again, but may not answer from memory."""
    async with side_loop() as side:
        process = Beating(postgres, side)
        lease = await process.membership.join()

        async def fence_soon() -> None:
            await asyncio.sleep(0.2)
            conn = await asyncpg.connect(postgres.dsn)
            await fence(conn, lease)
            await conn.close()

        async with running(process.run), side_loop() as other:
            await until(lambda: process.slots > 0)
            fencing = asyncio.ensure_future(other.run(fence_soon()))
            await asyncio.sleep(0)
            began = time.monotonic()
            while process.membership.in_good_standing and time.monotonic() < began + _CONFIG.dead_after_s:
                pass
            assert not process.membership.in_good_standing
            assert not process.lost
            await fencing
            await until(lambda: bool(process.lost))
        await process.membership.leave()


async def test_stuck_loop_ends_the_process(postgres: TestDatabase, caplog: pytest.LogCaptureFixture) -> None:
    codes: list[tuple[int, bool]] = []
    async with side_loop() as side:
        process = Beating(postgres, side)
        lease = await process.membership.join()

        def end(code: int) -> None:
            codes.append((code, process.membership.in_good_standing))

        guard = LoopGuard(side, process.membership, LoopMetrics(CollectorRegistry()), _CONFIG.stuck_after_s, end)
        async with running(process.run), running(guard.run):
            await until(lambda: process.slots > 0)
            deadline = time.monotonic() + 30
            while not codes and time.monotonic() < deadline:
                pass
        assert codes == [(STUCK, False)]
        (line,) = [each.getMessage() for each in caplog.records if each.levelno == logging.CRITICAL]
        assert "test_stuck_loop_ends_the_process" in line
        conn = await asyncpg.connect(postgres.dsn)
        assert await conn.fetchval("SELECT count(*) FROM leases WHERE lease = $1", lease) == 0
        await conn.close()


async def test_stalls_are_counted(postgres: TestDatabase, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    registry = CollectorRegistry()
    async with side_loop() as side:
        process = Beating(postgres, side)
        guard = LoopGuard(side, process.membership, LoopMetrics(registry), 60.0)

        def counted() -> float:
            found = (registry.get_sample_value("skep_loop_stalls_total", {"endpoint": e}) for e in ("none", "no_cpu"))
            return sum(each or 0.0 for each in found)

        async with running(guard.run):
            await asyncio.sleep(0.3)
            quiet = counted()
            block(0.7)
            await until(lambda: counted() > quiet)
    assert any("in block" in each.getMessage() for each in caplog.records)
