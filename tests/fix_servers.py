"""PostgreSQL and Redis for tests, from wheels. Each starts once for a test process, if a test uses it.

postgres          a fresh, migrated, empty database for one test
postgres_module   the same for a module
redis             the settings of a running Redis, with a channel prefix that no other test uses
"""

import asyncio
import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import running
from deploy.local.servers.redis import prepare_redis
from shared.config.addresses import database_dsn
from shared.config.sections import Database, Redis
from tests.rigs.clusters import QUICK, copy_cluster
from tests.rigs.directories import server_directory as make_server_directory

_numbers = itertools.count(1)
_STATEMENT_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class TestDatabase:
    """A database for a test.

    section: the configuration's section `database`
    dsn: for asyncpg.connect and `shared.storage.engine.pool.connector`
    """

    __test__ = False
    section: Database
    dsn: str


class PostgresServer:
    """A running cluster. Its database `skep` is the template of all others, so it must have no connections."""

    def __init__(self, section: Database) -> None:
        self._section = section
        # asyncio.run would make a loop and a connection for each statement. Tests have their own loops.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        dsn = database_dsn(dataclasses.replace(section, name="postgres"))
        self._connection: asyncpg.Connection = self._wait_for(asyncpg.connect(dsn))

    @contextlib.contextmanager
    def new_database(self) -> Iterator[TestDatabase]:
        section = dataclasses.replace(self._section, name=f"test_{next(_numbers)}")
        self._execute(f"CREATE DATABASE {section.name} TEMPLATE {self._section.name} STRATEGY file_copy")
        yield TestDatabase(section, database_dsn(section))
        # Autovacuum visits every database.
        self._execute(f"DROP DATABASE {section.name} WITH (FORCE)")

    def close(self) -> None:
        self._wait_for(self._connection.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _execute(self, sql: str) -> None:
        self._wait_for(self._connection.execute(sql))

    def _wait_for(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_STATEMENT_LIMIT_S)


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    with make_server_directory("servers") as path:
        yield path


@pytest.fixture(scope="session")
def postgres_server(server_directory: Path) -> Iterator[PostgresServer]:
    copy_cluster(server_directory)
    program, section = prepare_postgres(server_directory, server_directory, QUICK)
    with running(program, server_directory / "postgres.log"), contextlib.closing(PostgresServer(section)) as server:
        yield server


@pytest.fixture
def postgres(postgres_server: PostgresServer) -> Iterator[TestDatabase]:
    with postgres_server.new_database() as database:
        yield database


@pytest.fixture(scope="module")
def postgres_module(postgres_server: PostgresServer) -> Iterator[TestDatabase]:
    with postgres_server.new_database() as database:
        yield database


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[Redis]:
    program, section = prepare_redis(server_directory)
    with running(program, server_directory / "redis.log"):
        yield section


@pytest.fixture
def redis(redis_server: Redis) -> Redis:
    return dataclasses.replace(redis_server, channel_prefix=f"test{next(_numbers)}")
