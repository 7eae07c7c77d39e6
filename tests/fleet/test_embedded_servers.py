"""PostgreSQL and Redis from wheels start, hold what they are given, and go; in awkward directories too."""

import asyncio
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.data_directory import DataDirectory
from deploy.local.embedded_postgres import prepare_postgres
from deploy.local.program import running
from deploy.local.unprivileged import CannotRunHere
from shared.config.addresses import database_dsn
from shared.config.sections import Redis
from tests.fix_servers import TestDatabase

FAST = ("fsync=off",)


async def one_value(dsn: str, sql: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def test_each_test_has_a_migrated_database_of_its_own(postgres: TestDatabase) -> None:
    assert asyncio.run(one_value(postgres.dsn, "SELECT max(number) FROM schema_migrations"))
    assert asyncio.run(one_value(postgres.dsn, "SELECT current_database()")) == postgres.section.name


def test_redis_wants_its_password(redis: Redis) -> None:
    assert redis.host is not None and redis.password is not None
    with socket.create_connection((redis.host, redis.port), timeout=2) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
        connection.sendall(f"AUTH {redis.password.reveal()}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"


@pytest.fixture
def awkward_directory(tmp_path: Path) -> Iterator[Path]:
    """Closed to other users (as /root is), with a space and a comma, and too long for a unix socket."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "my servers, all" / ("long" * 25)
    path.mkdir(parents=True)
    yield path
    cluster = path / "postgres"
    for directory in (cluster, path / "run" / "sockets"):
        if directory.is_symlink():
            shutil.rmtree(directory.resolve())


def test_postgres_in_an_awkward_directory_keeps_its_data(awkward_directory: Path) -> None:
    data = DataDirectory(awkward_directory)
    program, section = prepare_postgres(data.path, data.socket_directory(), FAST)
    with running(program, data.log_of("postgres")):
        asyncio.run(one_value(database_dsn(section), "CREATE TABLE kept AS SELECT 7 AS value"))
    program, section = prepare_postgres(data.path, data.socket_directory(), FAST)
    with running(program, data.log_of("postgres")):
        assert asyncio.run(one_value(database_dsn(section), "SELECT value FROM kept")) == 7
    assert (data.path / "postgres").is_symlink() == (os.geteuid() == 0)


def test_a_cluster_left_half_made_is_made_again(server_directory: Path) -> None:
    data = server_directory / "half"
    data.mkdir()
    prepare_postgres(data, data, FAST)
    (data / "postgres.unfinished").touch()
    (data / "postgres" / "global" / "pg_control").unlink()
    program, section = prepare_postgres(data, data, FAST)
    with running(program, data / "log"):
        assert asyncio.run(one_value(database_dsn(section), "SELECT current_database()")) == "skep"


def test_strangers_files_are_never_deleted(server_directory: Path) -> None:
    data = server_directory / "strange"
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "thesis.txt").touch()
    with pytest.raises(CannotRunHere, match=r"thesis\.txt"):
        prepare_postgres(data, data, FAST)
    assert (data / "postgres" / "thesis.txt").exists()


def test_one_fleet_at_a_time(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path).lock()
    with pytest.raises(CannotRunHere, match="already running"):
        DataDirectory(tmp_path).lock()
    os.close(first)
    os.close(DataDirectory(tmp_path).lock())
