"""Steps before a local fleet starts: its configuration, its ports, and the leftovers of an earlier one."""

import contextlib
import dataclasses
import os
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from deploy.local.data_directory import DataDirectory, leftovers
from deploy.local.servers.unprivileged import CannotRunHere
from shared.config.generate import development_yaml, write_secrets
from shared.config.load import load_config, read_config
from shared.config.sections import Config

_LEFTOVER_LIMIT_S = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """The command line of `skep up`. A port of None leaves it to the configuration."""

    data: Path
    config: Path | None = None
    client_port: int | None = None
    federation_port: int | None = None


def say(line: str) -> None:
    """Print one line with the time. A lost terminal is no reason to stop."""
    with contextlib.suppress(OSError):
        print(time.strftime("%H:%M:%S"), line, flush=True)


def end_leftovers(data: DataDirectory) -> None:
    """End the processes of a fleet whose supervisor was killed. We hold the lock, so it does not run any more."""
    record = data.read_fleet()
    if record is None:
        return
    remaining = leftovers(record.processes)
    if remaining:
        say(f"ending {len(remaining)} processes that an earlier `skep up` left running")
    # PostgreSQL last, so that workers can still hand over and leave.
    for servers in (False, True):
        group = [each for each in remaining if (each.type in ("postgres", "redis")) == servers]
        end = time.monotonic() + _LEFTOVER_LIMIT_S
        for each in group:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGINT if each.type == "postgres" else signal.SIGTERM)
        while (group := leftovers(group)) and time.monotonic() < end:
            time.sleep(0.05)
        for each in group:
            with contextlib.suppress(ProcessLookupError):
                os.kill(each.pid, signal.SIGKILL)
    data.fleet_file.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class StartingConfig:
    """The configuration of a start.

    unwritten: the text of a new development configuration, which is written to `path` once the fleet has started. A
        start that fails leaves none, so that the next one may choose other ports, and with them another name.
    """

    config: Config
    path: Path
    unwritten: str | None = None


def starting_config(data: DataDirectory, wanted: Wanted) -> StartingConfig:
    """Return the configuration with the command line's ports. Raises ConfigurationError, CannotRunHere."""
    path = wanted.config or data.path / "skep.yaml"
    if wanted.config is not None or path.exists():
        return StartingConfig(config=with_command_line(load_config(path), wanted), path=path)
    client_port, federation_port = wanted.client_port or 8008, wanted.federation_port or 8448
    _check_two_ports(client_port, federation_port)
    write_secrets(data.path)
    text = development_yaml(client_port, federation_port)
    return StartingConfig(config=read_config(text, path, os.environ), path=path, unwritten=text)


def with_command_line(config: Config, wanted: Wanted) -> Config:
    """Return the configuration with the command line's ports, also in a public_base_url that names them."""
    client, federation = config.listeners.client, config.listeners.federation
    public_base_url = config.public_base_url
    if wanted.client_port is not None:
        if public_base_url == f"http://{client.host}:{client.port}":
            public_base_url = f"http://{client.host}:{wanted.client_port}"
        client = dataclasses.replace(client, port=wanted.client_port)
    if wanted.federation_port is not None:
        federation = dataclasses.replace(federation, port=wanted.federation_port)
    listeners = dataclasses.replace(config.listeners, client=client, federation=federation)
    return dataclasses.replace(config, listeners=listeners, public_base_url=public_base_url)


def _check_two_ports(client_port: int, federation_port: int) -> None:
    if client_port == federation_port:
        raise CannotRunHere(
            f"Port {client_port} is named for clients and for other servers. Name two with --client-port and"
            " --federation-port (with make: CLIENT_PORT=... FEDERATION_PORT=...)."
        )


def check_ports(config: Config, ours: frozenset[tuple[str, int]] = frozenset()) -> None:
    """Raise CannotRunHere if a public port is taken, before anything starts.

    ours: addresses of our own running haproxy.
    """
    _check_two_ports(config.listeners.client.port, config.listeners.federation.port)
    for option, listener in (
        ("--client-port", config.listeners.client),
        ("--federation-port", config.listeners.federation),
    ):
        if (listener.host, listener.port) in ours:
            continue
        family = socket.AF_INET6 if ":" in listener.host else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((listener.host, listener.port))
            except OSError as error:
                raise CannotRunHere(
                    f"Port {listener.port} on {listener.host} cannot be used ({error.strerror}). Name another one"
                    f" with {option} (with make: {option[2:].replace('-', '_').upper()}=...)."
                ) from None


def name_notes(config: Config) -> list[str]:
    """Return sentences about a loopback server name that clients or other servers misunderstand."""
    host, colon, port = config.server_name.rpartition(":")
    if not colon:
        host, port = config.server_name, "8448"
    if host not in ("localhost", "127.0.0.1", "[::1]"):
        return []
    notes = []
    if colon:
        notes.append(
            f"The server's name has a port. Some clients cut it off: give them the address"
            f" {config.public_base_url}, and the user name alone (alice)."
        )
    if int(port) != config.listeners.federation.port and config.federation.enabled:
        notes.append(
            f"Other servers look for {config.server_name} at port {port}, but it is served at port"
            f" {config.listeners.federation.port}. A name cannot change: use --federation-port {port}, or another"
            " --data directory."
        )
    return notes
