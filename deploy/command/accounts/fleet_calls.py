"""HTTP calls of commands to the running fleet: as a client, or to a worker with the fleet's secret."""

import asyncio
import http.client
import json
import time
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError
from deploy.command.slots.fleet_reader import fleet_of
from shared.config.sections import Config
from shared.core.identifiers import UserId
from shared.http.internal_calls import Empty, OwnerCall
from shared.storage.fleet.status import get_fleet_status

Takes = TypeVar("Takes")

_TIMEOUT_S = 30.0
_GIVE_UP_AFTER_S = 5.0
_TRY_AGAIN = (421, 503)


def client_url(config: Config) -> str:
    """Return the address of the client listener, from this machine."""
    listener = config.listeners.client
    wildcards = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - compared
    host = wildcards.get(listener.host, listener.host)
    return f"http://[{host}]:{listener.port}" if ":" in host else f"http://{host}:{listener.port}"


def call_client_api(url: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Make a request as a client; return the answer. Raises UsageError with the server's message, or if it is down."""
    status, answer = _request(url, method, path, body, {})
    if status != 200:
        raise UsageError(f"The server refused: {answer.get('error', status)}")
    return answer


def change_account(config: Config, path: Path, user_id: UserId, call: OwnerCall[Takes, Empty], body: Takes) -> None:
    """Let the owner of the user's slot change an account.

    path: the file of the configuration.
    Raises UsageError with the server's message, or if no client_api runs.
    """
    headers = {"Authorization": f"Bearer {config.secrets.internal_secret.reveal()}"}
    end_s = time.monotonic() + _GIVE_UP_AFTER_S
    while True:
        address = asyncio.run(_client_api_address(config, path))
        encoded = msgspec.to_builtins(body)
        status, answer = _request(f"http://{address}", call.method, call.path_for(user_id), encoded, headers)
        if status == 200:
            return
        if status not in _TRY_AGAIN or time.monotonic() > end_s:
            raise UsageError(f"The server refused: {answer.get('error', status)}")
        time.sleep(0.2)


async def _client_api_address(config: Config, path: Path) -> str:
    async with opened_database(config, path) as database:
        fleet = fleet_of(await get_fleet_status(database, {}), config.replication.dead_after_s)
    serving = [p for p in fleet.living if p.type == "client_api" and p.ready]
    if not serving:
        raise UsageError(
            "No client_api runs, which carries this out. Start the fleet, or one more: skep worker client_api"
        )
    return serving[0].address


def _request(
    url: str, method: str, path: str, body: dict[str, Any] | None, headers: dict[str, str]
) -> tuple[int, dict[str, Any]]:
    """Return status and answer. Raises UsageError for a malformed URL, or if nothing answers as a homeserver does."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("http", "https"):
        raise UsageError(f"{url!r} is not a URL such as http://127.0.0.1:8008")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_TIMEOUT_S)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, {"Content-Type": "application/json", **headers})
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UsageError(f"{url} does not answer as a homeserver: {error}. Is the fleet running?") from error
    finally:
        connection.close()
    if not isinstance(answer, dict):
        raise UsageError(f"{url} does not answer as a homeserver. Is the fleet running?")
    return response.status, answer
