"""Make and list registration tokens: whoever has one may make an account. Works on the database directly."""

import argparse
import asyncio
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from deploy.command.options import UsageError, add_config_option, load_named_config
from shared.config.addresses import database_dsn
from shared.config.sections import Config
from shared.storage.accounts.registration import create_registration_token, list_registration_tokens
from shared.storage.engine.pool import Database, connector

_T = TypeVar("_T")
#: Spec: client-server API, "Token-authenticated registration".
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}")


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="registration_command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a token and print it")
    create.add_argument("--token", help="its text; default: 16 random characters")
    create.add_argument("--uses", type=int, metavar="N", help="how many accounts it is good for; default: any number")
    create.add_argument("--days", type=float, metavar="N", help="how long it is valid; default: for ever")
    listing = commands.add_parser("list", help="show all tokens and how often they were used")
    for each in (create, listing):
        add_config_option(each)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError for a token that exists or cannot be, Unavailable when the database is away."""
    config = load_named_config(arguments)
    if arguments.registration_command == "create":
        return _create(config, arguments)
    now_ms = int(time.time() * 1000)
    for token in asyncio.run(_with_database(config, list_registration_tokens)):
        uses = f"{token.completed} of {'any' if token.uses_allowed is None else token.uses_allowed}"
        expired = token.expires_ms is not None and token.expires_ms <= now_ms
        print(f"{token.token}\t{uses} used{', expired' if expired else ''}")
    return 0


def _create(config: Config, arguments: argparse.Namespace) -> int:
    text = arguments.token or secrets.token_urlsafe(12)
    if not _TOKEN.fullmatch(text):
        raise UsageError("A token has 1 to 64 letters, digits or . _ ~ -")
    if arguments.uses is not None and arguments.uses < 1:
        raise UsageError("--uses must be 1 or more")
    expires_ms = None if arguments.days is None else int((time.time() + arguments.days * 86_400) * 1000)
    made = asyncio.run(
        _with_database(config, lambda database: create_registration_token(database, text, arguments.uses, expires_ms))
    )
    if not made:
        raise UsageError("This token exists already.")
    print(text)
    return 0


async def _with_database(config: Config, work: Callable[[Database], Awaitable[_T]]) -> _T:
    connect = connector(database_dsn(config.database), pgbouncer=config.database.pgbouncer)
    database = Database(connect, max_connections=1)
    try:
        return await work(database)
    finally:
        await database.close()
