"""What happens before a local fleet starts: its configuration, its ports, and what an earlier one left behind."""

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
from shared.config.sections import Config

_LEFTOVER_LIMIT_S = 8.0


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line says. Ports: None leaves them to the configuration."""

    data: Path
    config: Path | None = None
    client_port: int | None = None
    federation_port: int | None = None


def say(line: str) -> None:
    """Print one line with the time. A terminal that went away is no reason to stop."""
    with contextlib.suppress(OSError):
        print(time.strftime("%H:%M:%S"), line, flush=True)


def end_leftovers(data: DataDirectory) -> None:
    """End what a fleet left behind whose supervisor was killed; we hold the lock, so that one is gone."""
    record = data.read_fleet()
    if record is None:
        return
    remaining = leftovers(record.processes)
    if remaining:
        say(f"ending {len(remaining)} processes that an earlier `skep up` left behind")
    # PostgreSQL last, so that workers can still hand over and say good-bye.
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


def development_config(data: DataDirectory, wanted: Wanted) -> Path:
    path = data.path / "skep.yaml"
    if not path.exists():
        write_secrets(data.path)
        text = development_yaml(wanted.client_port or 8008, wanted.federation_port or 8448)
        data.write_private(path, text)
        say(f"wrote {path}: for trying and developing only, everyone on this machine can register")
    return path


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


def check_ports(config: Config, ours: frozenset[tuple[str, int]] = frozenset()) -> None:
    """Raise CannotRunHere when a port that people know of is taken, before anything is started.

    ours: addresses at which our own haproxy listens already.
    """
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
