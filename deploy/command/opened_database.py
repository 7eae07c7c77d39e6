"""The fleet's database for a command, with a sentence for every reason why it cannot be used."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg

from deploy.command.options import UsageError
from deploy.local.data_directory import leftovers, read_fleet_beside
from shared.config.addresses import database_dsn, database_dsn_without_password, database_is_named
from shared.config.sections import Config
from shared.core.errors import Unavailable
from shared.storage.engine.pool import Database, connector
from shared.storage.engine.schema_version import SCHEMA_VERSION, current_version

_CANNOT_CONNECT = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


@asynccontextmanager
async def opened_database(config: Config, path: Path) -> AsyncIterator[Database]:
    """Lend the database with one connection.

    path: the file that `config` was loaded from.
    Raises UsageError if the database cannot be reached, refuses us or lacks this release's schema, or fails meanwhile.
    """
    must_name_database(config, path)
    shown = database_dsn_without_password(config.database)
    database = Database(connector(database_dsn(config.database), pgbouncer=True), max_connections=1)
    try:
        try:
            async with database.connection() as connection:
                version = await current_version(connection)
        except (*_CANNOT_CONNECT, Unavailable) as error:
            raise UsageError(cannot_use_database(config, path, error)) from error
        if version < SCHEMA_VERSION:
            found = "holds no fleet yet" if version == 0 else f"has the schema version {version}"
            raise UsageError(
                f"The database at {shown} {found}; this release needs version {SCHEMA_VERSION}."
                f" Bring it up to date: skep migrate --config {path}"
            )
        try:
            yield database
        except Unavailable as error:
            raise UsageError(
                f"The database at {shown} does not answer any more. Changes that were begun may still be carried out;"
                " look with `skep status` when it is back, and try again."
            ) from error
    finally:
        await database.close()


def must_name_database(config: Config, path: Path) -> None:
    """Raise UsageError if the configuration names no database: then `skep up` runs one, and knows its address."""
    if database_is_named(config.database):
        return
    running = path.parent / "run" / "skep.yaml"
    record = read_fleet_beside(running)
    if record is not None and leftovers(record.processes):
        raise UsageError(
            f"{path} names no database, since `skep up` runs one. The fleet that runs on {path.parent} has all"
            f" addresses in another file: --config {running}"
        )
    raise UsageError(
        f"{path} names no database, and no fleet runs on {path.parent}. Start it with `skep up --data {path.parent}`,"
        f" then use --config {running}; or name a PostgreSQL under `database`."
    )


def cannot_use_database(config: Config, path: Path, error: BaseException) -> str:
    """Return a sentence about a database that cannot be used, and the reason that the driver gives."""
    if path.parent.name == "run" and path.name == "skep.yaml":
        record = read_fleet_beside(path)
        if record is None or not leftovers(record.processes):
            data = path.parent.parent
            return f"No fleet runs on {data}, so its database is not there either. Start it: skep up --data {data}"
    reason = error.__cause__ if isinstance(error, Unavailable) and error.__cause__ is not None else error
    words = " ".join(str(reason).split()) or type(reason).__name__
    return f"The database at {database_dsn_without_password(config.database)} cannot be used: {words}"
