"""One process of the fleet, as `skep worker TYPE`, `skep main` and `skep up` run it."""

import os
import socket
from importlib import import_module

from setproctitle import setproctitle

from deploy.endpoint_table import all_endpoints, all_pools
from shared.config.sections import Config
from shared.runtime.logs import configure_logging
from shared.runtime.reactor import run_until_stopped

#: Worker type -> the module whose `compose` constructs it.
WORKER_TYPES = {
    name: f"workers.{name}.compose"
    for name in (
        "main",
        "event_persister",
        "synchrotron",
        "client_api",
        "federation_reader",
        "federation_sender",
        "background",
        "media",
    )
}


def default_name(worker_type: str) -> str:
    """Return a name that no other living process has: type, host and pid."""
    return f"{worker_type}-{socket.gethostname()}-{os.getpid()}"


def run_worker(worker_type: str, name: str, config: Config, listen_port: int | None = None) -> int:
    """Run one worker in this process; return its exit code.

    name: unique in the fleet. A process that starts under the name of a dead one gets its slots again.
    listen_port: overrides `workers.listen_port`; 0: the system picks one.
    """
    setproctitle(f"skep: {name}")
    configure_logging(name, json=config.logging.format == "json", level=config.logging.level.upper())
    compose = import_module(WORKER_TYPES[worker_type]).compose
    endpoints = all_endpoints()
    pools = {pool.name: pool for pool in all_pools()}

    async def main(stop):  # type: ignore[no-untyped-def]
        # Imported here, after run_until_stopped installed the reactor: it imports the reactor through txredisapi.
        from replication.process.lifecycle import run_worker as run  # noqa: PLC0415

        return await run(worker_type, name, config, compose, endpoints, pools, stop, listen_port=listen_port)

    return run_until_stopped(main)
