"""Show who runs, who owns which slots, how far each stream has come and who lags behind."""

import argparse
import asyncio

from deploy.command.options import add_config_option, load_named_config
from deploy.command.status import fleet_status, status_json, status_text
from deploy.local.data_directory import read_fleet_file


def configure(parser: argparse.ArgumentParser) -> None:
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="for programs")


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError; Unavailable when the database is away."""
    config = load_named_config(arguments)
    # `skep up` writes both files side by side; elsewhere there is none, and no local programs either.
    status = asyncio.run(fleet_status(config, read_fleet_file(config.directory / "fleet.json")))
    print(status_json(status) if arguments.json else status_text(status))
    return 0
