"""`skep worker TYPE` and `skep main`: one process of the fleet, until it is told to stop."""

import os
import socket
from importlib import import_module

from setproctitle import setproctitle

from deploy.endpoint_table import all_endpoints, all_pools
from shared.config.sections import Config
from shared.runtime.logs import configure_logging
from shared.runtime.reactor import run_until_stopped

#: Worker type -> the module whose `compose` puts it together.
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
    """A name that no other living process has: type, host and pid."""
    return f"{worker_type}-{socket.gethostname()}-{os.getpid()}"


def run_worker(worker_type: str, name: str, config: Config, listen_port: int | None = None) -> int:
    """Run one worker process in this process; return its exit code.

    name: unique in the fleet; a process that comes back under the name of a dead one gets its slots again.
    listen_port: overrides `workers.listen_port` (0: picked).
    """
    setproctitle(f"skep: {name}")
    configure_logging(name, json=config.logging.format == "json", level=config.logging.level.upper())
    compose = import_module(WORKER_TYPES[worker_type]).compose
    endpoints = all_endpoints()
    pools = {pool.name: pool for pool in all_pools()}

    async def main(stop):  # type: ignore[no-untyped-def]
        # Imports the reactor through txredisapi: only now, after run_until_stopped installed it.
        from replication.process.lifecycle import run_worker as run  # noqa: PLC0415

        return await run(worker_type, name, config, compose, endpoints, pools, stop, listen_port=listen_port)

    return run_until_stopped(main)
