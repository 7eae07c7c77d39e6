"""The watch of PostgreSQL's standby: none, an asynchronous one, and a synchronous one."""

import asyncio
import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from prometheus_client import CollectorRegistry

from deploy.local.servers.unprivileged import give_to
from shared.metrics.replication import StandbyMetrics
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.standbys import Durability, get_standbys
from tests.faults.servers import Servers, running_servers
from workers.main.standby_watch import StandbyWatch


@contextlib.contextmanager
def follower_of(servers: Servers) -> Iterator[None]:
    """Run pg_receivewal, which receives and confirms the write-ahead log like a standby called "far"."""
    primary = servers.postgres.program
    directory = primary.directory.with_name("received")
    directory.mkdir()
    give_to(primary.user, directory)
    words: list[str | Path] = [Path(primary.argv[0]).parent / "pg_receivewal", "--synchronous", "-D", directory]
    words += ["-d", f"host={servers.database.hosts[0]} user=skep application_name=far"]
    user = primary.user
    identity: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": ()}
    process = subprocess.Popen(words, cwd=primary.directory, env=dict(primary.environment), **identity)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


async def set_names(conn: asyncpg.Connection, names: str) -> None:
    await conn.execute(f"ALTER SYSTEM SET synchronous_standby_names = '{names}'")
    await conn.fetchval("SELECT pg_reload_conf()")


async def until(database: Database, durability: Durability) -> None:
    for _ in range(200):
        if (await get_standbys(database)).durability is durability:
            return
        await asyncio.sleep(0.05)
    raise AssertionError(f"the standby did not become {durability.name}")


async def test_standby_changes_are_reported_by_the_leader(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    with running_servers() as servers:
        servers.postgres_proxy.close()
        database = Database(connector(servers.dsn, pgbouncer=False), max_connections=1)
        conn = await asyncpg.connect(servers.dsn)
        leads = False
        registry = CollectorRegistry()
        watch = StandbyWatch(database, StandbyMetrics(registry), lambda: leads)

        async def seen() -> tuple[float | None, list[tuple[str, str]]]:
            caplog.clear()
            await watch.check()
            lines = [(each.levelname, each.getMessage().split(":")[0]) for each in caplog.records]
            return registry.get_sample_value("skep_fleet_standby"), lines

        assert await seen() == (0, [("INFO", "PostgreSQL has no standby")])
        with follower_of(servers):
            await until(database, Durability.ASYNCHRONOUS)
            assert await seen() == (0, [])  # only the leader logs it
            leads = True
            assert await seen() == (1, [("INFO", "PostgreSQL has an asynchronous standby")])
            await set_names(conn, "FIRST 1 (far)")
            await until(database, Durability.SYNCHRONOUS)
            assert await seen() == (2, [("INFO", "PostgreSQL has a synchronous standby")])
            assert await seen() == (2, [])
            waived = connector(servers.dsn, pgbouncer=False, settings=(("synchronous_commit", "local"),))
            other = Database(waived, max_connections=1)
            assert (await get_standbys(other)).durability is Durability.ASYNCHRONOUS
            await other.close()
            await set_names(conn, "")
            await until(database, Durability.ASYNCHRONOUS)
            assert await seen() == (1, [("WARNING", "PostgreSQL has an asynchronous standby")])
        await until(database, Durability.NONE)
        assert await seen() == (0, [("WARNING", "PostgreSQL has no standby")])
        leads = False
        assert await seen() == (0, [])
        await conn.close()
        await database.close()
