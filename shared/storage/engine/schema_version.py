"""Schema versions and migrations: numbered SQL files, each run once, under one advisory lock.

This release needs `SCHEMA_VERSION`. Releases that need `COMPATIBLE_SINCE` or later can run beside it, and one can roll
back to them. Files: `migrations/NNNN_name.sql`.
"""

from dataclasses import dataclass
from importlib.resources import files

import asyncpg

from shared.storage.engine.pool import Connection

COMPATIBLE_SINCE = 23  # 0025 drops a table that earlier ones use
_LOCK = 0x536B6570  # "Skep": one migration at a time in this database


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """Return every migration that this release carries, in order."""
    found = []
    for entry in files("shared.storage.migrations").iterdir():
        if entry.name.endswith(".sql"):
            number, _, name = entry.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, entry.read_text(encoding="utf-8")))
    return sorted(found, key=lambda migration: migration.number)


SCHEMA_VERSION = max(migration.number for migration in migrations())


async def current_version(conn: Connection) -> int:
    """Return the database's schema version, 0 when it is empty."""
    try:
        version: int | None = await conn.fetchval("SELECT max(number) FROM schema_migrations")
    except asyncpg.UndefinedTableError:
        return 0
    return version or 0


async def migrate(conn: Connection) -> list[Migration]:
    """Bring the database up to this release. Return the migrations that ran. Several processes may call it at once."""
    done: list[Migration] = []
    await conn.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        await conn.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations"
            " (number integer PRIMARY KEY, name text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        )
        version = await current_version(conn)
        for migration in migrations():
            if migration.number <= version:
                continue
            async with conn.transaction():
                await conn.execute(migration.sql)
                await conn.execute(
                    "INSERT INTO schema_migrations (number, name) VALUES ($1, $2)",
                    migration.number,
                    migration.name,
                )
            done.append(migration)
    finally:
        await conn.execute("SELECT pg_advisory_unlock($1)", _LOCK)
    return done
