"""Find out why another server cannot be reached, or reaches us with errors.

`skep federation check` goes the way of every request to that server, from this machine and with this configuration:
where its name leads, whether the connection and the certificate are right, its version, and its keys. It sends nothing
that changes anything there. The exit code is 1 if one of the steps fails.

  skep federation check matrix.org
"""

import argparse
import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from deploy.command.options import UsageError, add_config_option, config_path
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.errors import RemoteServerError, SignatureError
from shared.core.federation.published_keys import parse_published_keys
from shared.core.federation.server_discovery import Endpoint
from shared.core.identifiers import ServerName, is_server_name
from shared.federation.access import FederationAccess, open_federation
from shared.federation.requests import url_of
from shared.http.outside.client import OutsideLimits
from shared.runtime.clock import SystemClock

_LIMITS = OutsideLimits(connect_s=5.0, first_byte_s=10.0, total_s=15.0, body_bytes=1 << 18)


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="federation_command", required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="show each step to another server")
    check.add_argument("server", metavar="SERVER", help="the server's name, such as matrix.org")
    add_config_option(check)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, and UsageError for what is no server name."""
    if not is_server_name(arguments.server):
        raise UsageError(f"{arguments.server} is not a server name. It is what stands after the colon of a user id.")
    return asyncio.run(_check(load_config(config_path(arguments)), ServerName(arguments.server)))


async def _check(config: Config, server: ServerName) -> int:
    access = open_federation(config, SystemClock(), CollectorRegistry())
    try:
        try:
            endpoints = await access.discovery.endpoints(server, print)
        except RemoteServerError as error:
            print(f"FAILED  {error}")
            return 1
        right = [await _check_endpoint(access, server, endpoint) for endpoint in endpoints]
    finally:
        await access.close()
    if all(right):
        print(f"{server} can be reached.")
        return 0
    print(f"{server} {'can be reached at some of its addresses only' if any(right) else 'cannot be reached'}.")
    return 1


async def _check_endpoint(access: FederationAccess, server: ServerName, endpoint: Endpoint) -> bool:
    """Print what a server answers at one of its addresses. Return True if everything is right."""
    now_ms = SystemClock().now_ms()
    where = f"{endpoint.host} port {endpoint.port}"
    print(f"{where}, Host {endpoint.host_header}, certificate for {endpoint.certificate_name}:")
    try:
        answer = await _get(access, endpoint, "/_matrix/federation/v1/version")
        print(f"  ok      version: {_version(answer)}")
        answer = await _get(access, endpoint, "/_matrix/key/v2/server")
        keys = parse_published_keys(answer, server, now_ms)
    except (RemoteServerError, SignatureError) as error:
        print(f"  FAILED  {error}")
        return False
    until = datetime.fromtimestamp(keys.valid_until_ms / 1000, UTC)
    if keys.valid_until_ms <= now_ms:
        print(f"  FAILED  its keys were valid until {until:%Y-%m-%d %H:%M} UTC only: is its clock or ours wrong?")
        return False
    print(f"  ok      keys: {', '.join(sorted(keys.keys))}, valid until {until:%Y-%m-%d %H:%M} UTC")
    return True


async def _get(access: FederationAccess, endpoint: Endpoint, uri: str) -> Any:
    answer = await access.client.request(
        "GET",
        url_of(endpoint, uri),
        headers={"Host": endpoint.host_header},
        certificate_name=endpoint.certificate_name,
        limits=_LIMITS,
    )
    if answer.status != 200:
        raise RemoteServerError(f"{uri} is answered with {answer.status}")
    try:
        return orjson.loads(answer.body)
    except ValueError:
        raise RemoteServerError(f"{uri} is answered with something else than JSON") from None


def _version(answer: Any) -> str:
    """Return the server's software for people. It may be anything: control characters are left out."""
    server = answer.get("server") if isinstance(answer, Mapping) else None
    words = [server.get("name"), server.get("version")] if isinstance(server, Mapping) else []
    told = " ".join(word for word in words if isinstance(word, str))[:100]
    return "".join(character for character in told if character.isprintable()) or "unknown"
