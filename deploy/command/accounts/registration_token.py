"""Make and list registration tokens. Everyone who has a token may make an account. Works on the database directly.

skep registration-token create --uses 1 --days 7
skep registration-token list
"""

import argparse
import asyncio
import re
import secrets
import time

from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError, add_config_option, config_path, days, whole_number
from shared.config.load import load_config
from shared.storage.accounts.registration import create_registration_token, list_registration_tokens
from shared.storage.engine.pool import Database

#: Spec: client-server API, "Token-authenticated registration".
_TOKEN = re.compile(r"[A-Za-z0-9._~-]{1,64}")


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="registration_command", required=True, metavar="COMMAND")
    create = commands.add_parser("create", help="make a token and print it")
    create.add_argument("--token", help="its text; default: 16 random characters")
    create.add_argument(
        "--uses", type=whole_number(1, 2**31 - 1), metavar="N", help="accounts it may make; default: any number"
    )
    create.add_argument("--days", type=days, metavar="N", help="its lifetime; default: for ever")
    listing = commands.add_parser("list", help="show all tokens and their uses")
    for each in (create, listing):
        add_config_option(each)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError for a token that exists or is malformed, or if the database cannot be used."""
    return asyncio.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    if arguments.registration_command == "create" and not _TOKEN.fullmatch(arguments.token or "default"):
        raise UsageError("A token has 1 to 64 letters, digits or . _ ~ -")
    path = config_path(arguments)
    async with opened_database(load_config(path), path) as database:
        if arguments.registration_command == "create":
            return await _create(database, arguments)
        now_ms = int(time.time() * 1000)
        for token in await list_registration_tokens(database):
            uses = f"{token.completed} of {'any' if token.uses_allowed is None else token.uses_allowed}"
            expired = token.expires_ms is not None and token.expires_ms <= now_ms
            print(f"{token.token}\t{uses} used{', expired' if expired else ''}")
    return 0


async def _create(database: Database, arguments: argparse.Namespace) -> int:
    text = arguments.token or secrets.token_urlsafe(12)
    expires_ms = None if arguments.days is None else int((time.time() + arguments.days * 86_400) * 1000)
    if not await create_registration_token(database, text, arguments.uses, expires_ms):
        raise UsageError("This token exists already.")
    print(text)
    return 0
