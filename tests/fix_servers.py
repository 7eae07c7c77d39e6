"""Real PostgreSQL and Redis for tests, from the wheels, started once for the session and only if a test asks.

postgres          a fresh, migrated, empty database for one test
postgres_module   the same for a module
redis             the settings of a running Redis, with a channel prefix that no other test uses
"""

import asyncio
import dataclasses
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import pytest

from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import running
from deploy.local.servers.redis import prepare_redis
from shared.config.addresses import database_dsn
from shared.config.sections import Database, Redis
from shared.storage.engine.schema_version import migrate

_TEMPLATE = "migrated"
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """section: as in the configuration; dsn: for asyncpg.connect and `shared.storage.engine.pool.connector`."""

    __test__ = False
    section: Database
    dsn: str


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A short directory that PostgreSQL can enter as another user (pytest's own are closed to all others)."""
    path = Path(tempfile.mkdtemp(prefix="skep-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[Database]:
    """A running cluster, without durability; its database `migrated` is the template of all others."""
    settings = ("fsync=off", "full_page_writes=off", "max_wal_size=512MB", "shared_buffers=64MB")
    program, section = prepare_postgres(server_directory, server_directory, settings)
    with running(program, server_directory / "postgres.log"):
        asyncio.run(_create(section, _TEMPLATE, "template0"))
        asyncio.run(_migrate(dataclasses.replace(section, name=_TEMPLATE)))
        yield section


@pytest.fixture
def postgres(postgres_server: Database) -> TestDatabase:
    return _fresh(postgres_server)


@pytest.fixture(scope="module")
def postgres_module(postgres_server: Database) -> TestDatabase:
    return _fresh(postgres_server)


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[Redis]:
    program, section = prepare_redis(server_directory)
    with running(program, server_directory / "redis.log"):
        yield section


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    return dataclasses.replace(redis_server, channel_prefix=f"test{next(_numbers)}")


def _fresh(server: Database) -> TestDatabase:
    name = f"test_{next(_numbers)}"
    asyncio.run(_create(server, name, _TEMPLATE))
    section = dataclasses.replace(server, name=name)
    return TestDatabase(section, database_dsn(section))


async def _create(server: Database, name: str, template: str) -> None:
    connection = await asyncpg.connect(database_dsn(server))
    try:
        await connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    finally:
        await connection.close()


async def _migrate(section: Database) -> None:
    connection = await asyncpg.connect(database_dsn(section))
    try:
        await migrate(connection)
    finally:
        await connection.close()
