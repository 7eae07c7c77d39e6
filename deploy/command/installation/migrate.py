"""Bring the database's schema up to this release. Safe to run on several hosts at once, and more than once."""

import argparse

import asyncpg

from deploy.command.opened_database import cannot_use_database, must_name_database
from deploy.command.options import UsageError, add_config_option, config_path
from deploy.database_tasks import run_migrations
from shared.config.load import load_config
from shared.storage.engine.schema_version import SCHEMA_VERSION


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, and UsageError if the database cannot be reached or refuses."""
    path = config_path(arguments)
    config = load_config(path)
    must_name_database(config, path)
    try:
        done = run_migrations(config.database)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
        raise UsageError(cannot_use_database(config, path, error)) from error
    for migration in done:
        print(f"{migration.number:04} {migration.name}")
    print(f"The schema is at version {SCHEMA_VERSION}.")
    return 0
