"""A PostgreSQL cluster with a migrated, empty database `skep`.

It is made once for each test process, and copied for each server.
"""

import asyncio
import atexit
import contextlib
import functools
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg

from deploy.local.servers.postgres import prepare_postgres
from deploy.local.servers.program import running
from shared.config.addresses import database_dsn
from shared.config.sections import Database
from shared.storage.engine.schema_version import migrate
from tests.rigs.directories import server_directory

#: Durable if a process of the server is killed, and not if the machine fails.
QUICK = ("fsync=off", "full_page_writes=off", "max_wal_size=512MB", "shared_buffers=64MB")
#: The directory with the cluster, for a pytest that a test starts.
_GIVEN = "SKEP_TEST_CLUSTER"


def copy_cluster(directory: Path) -> None:
    """Put a stopped cluster at directory/postgres. `prepare_postgres` finds it there."""
    # cp keeps the owner: PostgreSQL runs as another user if we are root.
    subprocess.run(["cp", "-a", str(_made() / "postgres"), str(directory)], check=True)


@functools.cache
def _made() -> Path:
    given = os.environ.get(_GIVEN)
    if given is not None:
        return Path(given)
    stack = contextlib.ExitStack()
    atexit.register(stack.close)
    directory = stack.enter_context(server_directory("cluster"))
    program, section = prepare_postgres(directory, directory, QUICK)
    with running(program, directory / "postgres.log"), ThreadPoolExecutor() as thread:
        thread.submit(asyncio.run, _migrate(section)).result()  # in a thread, since the caller may be a coroutine
    os.environ[_GIVEN] = str(directory)
    return directory


async def _migrate(section: Database) -> None:
    connection = await asyncpg.connect(database_dsn(section))
    try:
        await migrate(connection)
    finally:
        await connection.close()
