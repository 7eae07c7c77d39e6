"""Configurations to start from: one for development on this machine, one for production."""

import base64
import os
import secrets
from pathlib import Path
from typing import Any

from shared.config.reading import keys_of
from shared.config.sections import Haproxy, RateLimits
from shared.config.writing import sample_yaml

_PRODUCTION = """\
The configuration of a Skep fleet: the same file for every process on every host.
A "#" without a space behind it precedes a setting with its default. Remove it (and the one
before its section) to change the value. `skep config check FILE` lists everything that is wrong.
docs/configuration.md describes each key."""

_DEVELOPMENT = """\
The configuration of a Skep fleet for development: everyone on this machine can register, and
nothing is limited. Never let strangers reach it. For a real server start from
`skep config generate --server-name ...`."""


def new_signing_key() -> str:
    """Return a new ed25519 signing key as the line of a key file: `ed25519 VERSION SEED`."""
    seed = base64.b64encode(secrets.token_bytes(32)).decode().rstrip("=")
    return f"ed25519 a_{secrets.token_hex(2)} {seed}\n"


def production_sample(server_name: str = "example.org") -> str:
    """Return the file for production, with closed registration and rate limits.

    It expects PostgreSQL and Redis on this machine, and secrets in files under `secrets/`.
    """
    return sample_yaml(
        _PRODUCTION,
        {
            "server_name": server_name,
            "public_base_url": f"https://matrix.{server_name}",
            "signing.key_file": "secrets/signing_key",
            "secrets.internal_secret_file": "secrets/internal_secret",
            "secrets.registration_shared_secret_file": "secrets/registration_shared_secret",
            "database.hosts": ["localhost"],
            "database.password_file": "secrets/database_password",
            "redis.host": "localhost",
        },
    )


def development_yaml(client_port: int, federation_port: int) -> str:
    """Return the file that `skep up` writes if there is none: loopback only, open registration, no limits.

    The server's name includes the federation port, so that fleets on one machine can federate with each other. The port
    8448 is left out, since other servers use it for a name without port.
    """
    unlimited = {f"rate_limits.{name}": None for name in keys_of(RateLimits)}
    unlimited |= {f"haproxy.{name}": None for name in keys_of(Haproxy) if name.endswith("_per_address")}
    active: dict[str, Any] = {
        "server_name": "localhost" if federation_port == 8448 else f"localhost:{federation_port}",
        "public_base_url": f"http://127.0.0.1:{client_port}",
        "signing.key_file": "secrets/signing_key",
        "secrets.internal_secret_file": "secrets/internal_secret",
        "secrets.registration_shared_secret_file": "secrets/registration_shared_secret",
        "listeners.client.host": "127.0.0.1",
        "listeners.client.port": client_port,
        "listeners.federation.host": "127.0.0.1",
        "listeners.federation.port": federation_port,
        "federation.allowed_ip_ranges": ["127.0.0.0/8", "::1/128"],
        "registration.enabled": True,
        "registration.require_token": False,
        **unlimited,
        "user_directory.search_all_users": True,
        "logging.format": "plain",
    }
    return sample_yaml(_DEVELOPMENT, active)


def write_secrets(directory: Path) -> list[Path]:
    """Make the secret files of the generated configurations in `directory`/secrets; return the new ones.

    Existing files are never changed. The directory gets mode 0700, the files 0600.
    """
    folder = directory / "secrets"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    contents = {
        "signing_key": new_signing_key(),
        "internal_secret": secrets.token_urlsafe(32) + "\n",
        "registration_shared_secret": secrets.token_urlsafe(32) + "\n",
    }
    return [folder / name for name, text in contents.items() if write_private(folder / name, text)]


def write_private(path: Path, text: str) -> bool:
    """Write a new file that only its owner can read; return False, and write nothing, when it exists."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return True
