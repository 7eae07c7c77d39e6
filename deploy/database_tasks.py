"""Short tasks on the database. Commands run them in their process, the supervisor in a child."""

import asyncio

import asyncpg

from shared.config.addresses import database_dsn
from shared.config.sections import Database
from shared.storage.engine.schema_version import Migration, migrate
from shared.storage.fleet.leases import fence_process


def run_migrations(database: Database) -> list[Migration]:
    """Bring the database's schema up to this release; return the migrations that ran.

    Raises OSError, asyncpg.PostgresError.
    """

    async def run() -> list[Migration]:
        connection = await asyncpg.connect(database_dsn(database), timeout=database.connect_timeout_s)
        try:
            return await migrate(connection)
        finally:
            await connection.close()

    return asyncio.run(run())


def fence_dead_process(database: Database, name: str) -> None:
    """End every lease of a process that is known to be dead, so that its slots go to living ones at once."""

    async def run() -> None:
        connection = await asyncpg.connect(
            database_dsn(database),
            timeout=database.connect_timeout_s,
            statement_cache_size=0 if database.pgbouncer else 100,
        )
        try:
            await fence_process(connection, name)
        finally:
            await connection.close()

    asyncio.run(run())
