"""Bring the database up to this release. Safe to run from several hosts at once, and again."""

import argparse

import asyncpg

from deploy.command.options import UsageError, add_config_option, load_named_config
from deploy.database_tasks import run_migrations
from shared.config.addresses import database_dsn_without_password
from shared.storage.engine.schema_version import SCHEMA_VERSION


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError when the database cannot be reached or refuses."""
    database = load_named_config(arguments).database
    try:
        done = run_migrations(database)
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        where = database_dsn_without_password(database)
        raise UsageError(f"{where} cannot be migrated: {error}") from error
    for migration in done:
        print(f"{migration.number:04} {migration.name}")
    print(f"The schema is at version {SCHEMA_VERSION}.")
    return 0
