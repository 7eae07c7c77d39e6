"""Register, list and change accounts. NAME is a user name, or a whole user id.

skep user register alice                       asks for a password
skep user register bot --password -            makes a password and prints it
skep user list --admins
skep user usage alice                          shows what she stores, and the quotas
skep user reset-password alice --password -    sets a password, and logs the user out everywhere
skep user make-admin alice
skep user deactivate mallory --erase
"""

import argparse
import asyncio
import getpass
import hashlib
import hmac
import json
import secrets
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from deploy.command.accounts.fleet_calls import call_client_api, change_account, client_url
from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError, add_config_option, config_path
from replication.calls.users import CLOSE_ACCOUNT, RESET_PASSWORD, SET_ADMIN, AdminRights, ClosedAccount, NewPassword
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.identifiers import UserId
from shared.storage.accounts.users import ListedAccount, get_account, list_accounts
from shared.storage.user_data.usage import get_usage

_REGISTER = "/_synapse/admin/v1/register"
_PAGE = 1000
_PASSWORD_HELP = "asked for by default; '-' makes one and prints it"  # noqa: S105 - a text


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="user_command", required=True, metavar="COMMAND")

    register = commands.add_parser("register", help="make an account")
    register.add_argument("--password", help=_PASSWORD_HELP)
    register.add_argument("--admin", action="store_true", help="make it an administrator")
    register.add_argument("--url", help="address of the fleet; default: the client listener on this machine")

    listing = commands.add_parser("list", help="show all accounts")
    listing.add_argument("--admins", action="store_true", help="only administrators")
    listing.add_argument("--deactivated", action="store_true", help="only deactivated accounts")
    listing.add_argument("--contains", metavar="TEXT", help="only user ids that contain TEXT")
    listing.add_argument("--json", action="store_true", help="print a JSON object for each account")

    usage = commands.add_parser("usage", help="show what an account stores, and its quotas")
    usage.add_argument("--json", action="store_true", help="print a JSON object")

    reset = commands.add_parser("reset-password", help="set a new password, and log the user out everywhere")
    reset.add_argument("--password", help=_PASSWORD_HELP)
    reset.add_argument("--keep-sessions", action="store_true", help="log no device out")

    deactivate = commands.add_parser("deactivate", help="close an account for good: it leaves its rooms")
    deactivate.add_argument("--erase", action="store_true", help="hide its messages from users who join later")
    deactivate.add_argument("--yes", action="store_true", help="do not ask for confirmation")

    make_admin = commands.add_parser("make-admin", help="make an account an administrator")
    make_admin.add_argument("--revoke", action="store_true", help="take the rights away instead")

    for each in (register, usage, reset, deactivate, make_admin):
        each.add_argument("name", metavar="NAME", help="user name, or user id")
    for each in (register, listing, usage, reset, deactivate, make_admin):
        add_config_option(each)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, and UsageError with the server's message if it refused."""
    path = config_path(arguments)
    return _COMMANDS[arguments.user_command](load_config(path), path, arguments)


def user_id_of(config: Config, name: str) -> UserId:
    """Return the user id that a user name or user id on the command line means. Raises UsageError for other servers."""
    localpart, colon, server = name.removeprefix("@").partition(":")
    if colon and server != config.server_name:
        raise UsageError(f"{name} belongs to another server: users here end in :{config.server_name}")
    return UserId(f"@{localpart}:{config.server_name}")


def _register(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    shared_secret = config.secrets.registration_shared_secret
    if shared_secret is None:
        raise UsageError("The configuration has no secrets.registration_shared_secret: set one, then restart.")
    user_name = user_id_of(config, arguments.name)[1:].partition(":")[0]
    password = _password(arguments)
    url = arguments.url or client_url(config)
    nonce = call_client_api(url, "GET", _REGISTER)["nonce"]
    kind = "admin" if arguments.admin else "notadmin"
    message = "\x00".join((nonce, user_name, password, kind)).encode()
    body = {
        "nonce": nonce,
        "username": user_name,
        "password": password,
        "admin": arguments.admin,
        "inhibit_login": True,
        "mac": hmac.new(shared_secret.reveal().encode(), message, hashlib.sha1).hexdigest(),
    }
    print(f"registered {call_client_api(url, 'POST', _REGISTER, body)['user_id']}")
    return 0


def _list(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    return asyncio.run(_list_accounts(config, path, arguments))


async def _list_accounts(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    async with opened_database(config, path) as database:
        page = await list_accounts(database, "", _PAGE)
        while page:
            for account in page:
                if _is_wanted(account, arguments):
                    print(json.dumps(asdict(account)) if arguments.json else _line(account))
            page = await list_accounts(database, page[-1].user_id, _PAGE)
    return 0


def _is_wanted(account: ListedAccount, arguments: argparse.Namespace) -> bool:
    return (
        (account.is_admin or not arguments.admins)
        and (account.deactivated or not arguments.deactivated)
        and (arguments.contains is None or arguments.contains in account.user_id)
    )


def _line(account: ListedAccount) -> str:
    marks = [account.kind] if account.kind != "user" else []
    marks += ["administrator"] if account.is_admin else []
    marks += ["deactivated"] if account.deactivated else []
    seen = "never" if account.last_seen_ms is None else _day(account.last_seen_ms)
    return f"{account.user_id}\tsince {_day(account.created_ms)}\tlast seen {seen}\t{', '.join(marks)}".rstrip()


def _day(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at_ms / 1000))


def _usage(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    return asyncio.run(_show_usage(config, path, arguments))


async def _show_usage(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    user_id = user_id_of(config, arguments.name)
    async with opened_database(config, path) as database:
        if await get_account(database, user_id) is None:
            raise UsageError(f"There is no account {user_id}.")
        used = asdict(await get_usage(database, user_id))
    quotas = {name: getattr(config.quotas, name) for name in used}
    if arguments.json:
        shown = {name: {"used": used[name], "quota": quotas[name]} for name in used}
        print(json.dumps({"user_id": user_id, **shown}))
        return 0
    for name, quota in quotas.items():
        print(f"{name:<22} {used[name]:>12,} of {quota:>12,}  {100 * used[name] // quota:>3} %")
    return 0


def _reset_password(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    user_id = user_id_of(config, arguments.name)
    body = NewPassword(_password(arguments), not arguments.keep_sessions)
    change_account(config, path, UserId(user_id), RESET_PASSWORD, body)
    print(f"{user_id} has a new password" + ("" if arguments.keep_sessions else ", and is logged out everywhere"))
    return 0


def _deactivate(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    user_id = user_id_of(config, arguments.name)
    if not arguments.yes:
        if not sys.stdin.isatty():
            raise UsageError(f"This cannot be undone. To deactivate {user_id} without being asked, add --yes.")
        if input(f"Deactivate {user_id} for good? Type its name to confirm: ") not in (arguments.name, user_id):
            raise UsageError("Not confirmed, and nothing was changed.")
    change_account(config, path, UserId(user_id), CLOSE_ACCOUNT, ClosedAccount(arguments.erase))
    print(f"{user_id} is deactivated and logged out; it leaves its rooms in the background")
    return 0


def _make_admin(config: Config, path: Path, arguments: argparse.Namespace) -> int:
    user_id = user_id_of(config, arguments.name)
    change_account(config, path, UserId(user_id), SET_ADMIN, AdminRights(not arguments.revoke))
    print(f"{user_id} is {'no administrator any more' if arguments.revoke else 'an administrator'}")
    return 0


def _password(arguments: argparse.Namespace) -> str:
    """Return the password of the command line, a new one for "-", or what is typed or piped in. Raises UsageError."""
    given: str | None = arguments.password
    if given == "-":
        given = secrets.token_urlsafe(12)
        print(f"password: {given}")
    elif given is None and sys.stdin.isatty():
        given = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != given:
            raise UsageError("The two passwords differ.")
    elif given is None:
        given = sys.stdin.readline().rstrip("\r\n")
        if not given:
            raise UsageError("No password: name one with --password, pipe it in, or let '--password -' make one.")
    return given


_COMMANDS: dict[str, Callable[[Config, Path, argparse.Namespace], int]] = {
    "register": _register,
    "list": _list,
    "usage": _usage,
    "reset-password": _reset_password,
    "deactivate": _deactivate,
    "make-admin": _make_admin,
}
