"""Register users, with the shared secret of the configuration, through the running fleet."""

import argparse
import getpass
import hashlib
import hmac
import http.client
import json
import secrets
from typing import Any
from urllib.parse import urlsplit

from deploy.command.options import UsageError, add_config_option, load_named_config
from shared.config.sections import Config

_PATH = "/_synapse/admin/v1/register"


def configure(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="user_command", required=True, metavar="COMMAND")
    register = commands.add_parser("register", help="make an account")
    register.add_argument("name", metavar="NAME", help="the part between @ and the colon")
    register.add_argument("--password", help="asked for when not given; '-' makes one and prints it")
    register.add_argument("--admin", action="store_true", help="make it an administrator")
    register.add_argument("--url", help="where the fleet is; default: the client listener on this machine")
    add_config_option(register)


def run(arguments: argparse.Namespace) -> int:
    """Raises UsageError with what the server said when it did not make the account."""
    config = load_named_config(arguments)
    shared_secret = config.secrets.registration_shared_secret
    if shared_secret is None:
        raise UsageError("The configuration has no secrets.registration_shared_secret: set one, then restart.")
    password = arguments.password
    if password is None:
        password = getpass.getpass("Password: ")
        if getpass.getpass("Again: ") != password:
            raise UsageError("The two passwords differ.")
    elif password == "-":  # noqa: S105 - a request for one
        password = secrets.token_urlsafe(12)
        print(f"password: {password}")
    url = arguments.url or _client_url(config)
    nonce = _request(url, "GET", None)["nonce"]
    kind = "admin" if arguments.admin else "notadmin"
    message = "\x00".join((nonce, arguments.name, password, kind)).encode()
    answer = _request(
        url,
        "POST",
        {
            "nonce": nonce,
            "username": arguments.name,
            "password": password,
            "admin": arguments.admin,
            "mac": hmac.new(shared_secret.reveal().encode(), message, hashlib.sha1).hexdigest(),
        },
    )
    print(f"registered {answer['user_id']}")
    return 0


def _client_url(config: Config) -> str:
    listener = config.listeners.client
    host = "127.0.0.1" if listener.host in ("0.0.0.0", "::", "") else listener.host  # noqa: S104 - compared
    return f"http://[{host}]:{listener.port}" if ":" in host else f"http://{host}:{listener.port}"


def _request(url: str, method: str, body: dict[str, Any] | None) -> dict[str, Any]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url!r} is no URL such as http://127.0.0.1:8008")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname, parts.port, timeout=30)
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, _PATH, content, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = json.loads(response.read() or b"{}")
    except (OSError, http.client.HTTPException, json.JSONDecodeError) as error:
        raise UsageError(f"{url} does not answer as a homeserver: {error}. Is the fleet running?") from error
    finally:
        connection.close()
    if response.status != 200 or not isinstance(answer, dict):
        raise UsageError(f"the server refused: {answer.get('error', response.status)}")
    return answer
