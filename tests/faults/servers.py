"""PostgreSQL and Redis that a test can stop and start under a fleet, each behind a proxy that injects faults."""

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import Program, start, stop, wait_until_ready
from deploy.local.servers.redis import prepare_redis
from shared.config.addresses import database_dsn
from shared.config.sections import Database
from tests.faults.redis_proxy import RedisProxy
from tests.replication.postgres_proxy import PostgresProxy
from tests.rigs.clusters import QUICK, copy_cluster
from tests.rigs.directories import server_directory

_START_LIMIT_S = 30.0


class Server:
    """A program that can be stopped and started again."""

    def __init__(self, program: Program, log: Path) -> None:
        self.program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = start(self.program, self._log)
        wait_until_ready(self.program, self._process, self._log, _START_LIMIT_S)

    def stop(self, number: int = signal.SIGKILL) -> None:
        """Stop the program with a signal, and wait for its end."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                stop(self.program, self._process, 1.0)

    def away(self, seconds: float, number: int = signal.SIGKILL) -> None:
        """Stop the program, and start it again after some seconds."""
        self.stop(number)
        time.sleep(seconds)
        self.start()


@dataclass(frozen=True, slots=True)
class Servers:
    """Both servers. database: the direct address of PostgreSQL, for the test itself."""

    postgres: Server
    redis: Server
    redis_proxy: RedisProxy
    postgres_proxy: PostgresProxy
    database: Database
    redis_password: str
    directory: Path

    @property
    def dsn(self) -> str:
        return database_dsn(self.database)

    def settings(self, connections: int = 6) -> dict[str, dict[str, Any]]:
        """Return the sections of a fleet's configuration with both proxies."""
        dsn = f"postgresql://skep@127.0.0.1:{self.postgres_proxy.port}/skep?sslmode=disable"
        url = f"redis://:{self.redis_password}@127.0.0.1:{self.redis_proxy.port}"
        return {"database": {"dsn": dsn, "connections": connections}, "redis": {"url": url}}


@contextmanager
def running_servers(seed: int = 1, postgres_settings: tuple[str, ...] = QUICK) -> Iterator[Servers]:
    """Run both servers and their proxies. seed: of the faults of messages."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(server_directory("faults"))
        copy_cluster(directory)
        program, database = prepare_postgres(directory, directory, postgres_settings)
        postgres = Server(program, directory / "postgres.log")
        program, found = prepare_redis(directory)
        redis = Server(program, directory / "redis.log")
        for server in (postgres, redis):
            stack.callback(server.stop, signal.SIGQUIT if server is postgres else signal.SIGKILL)
            server.start()
        redis_proxy = RedisProxy(found.port, seed)
        stack.callback(redis_proxy.close)
        postgres_proxy = PostgresProxy(f"{database.hosts[0]}/.s.PGSQL.{database.port}")
        stack.callback(postgres_proxy.close)
        assert found.password is not None
        yield Servers(postgres, redis, redis_proxy, postgres_proxy, database, found.password.reveal(), directory)
