"""Drain a process: move its slots to the others of its type, stop new requests to it, and end it.

No request fails meanwhile. The process ends with code 85, which tells its supervisor not to start it again (`skep up`
understands it; systemd needs RestartPreventExitStatus=85). With --keep-running it stays without slots until
`skep undrain`, also when it restarts under the same name.

  skep drain event_persister-2
  skep drain synchrotron-1 --keep-running
"""

import argparse
import asyncio
from pathlib import Path

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, config_path, process_name
from deploy.command.slots.fleet_reader import Fleet, FleetReader, fleet_reader, kind_owned_by
from shared.config.load import load_config
from shared.config.sections import Config
from shared.storage.fleet.drains import ASK_DRAIN, AskDrain
from shared.storage.fleet.leases import ProcessRow

#: Seconds beyond one heartbeat, in which a process notices the drain, and its drain limit.
_GRACE_S = 10.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", type=process_name, metavar="NAME", help="the process, as `skep status` names it")
    parser.add_argument(
        "--keep-running", action="store_true", help="leave it running without slots until `skep undrain NAME`"
    )
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    path = config_path(arguments)
    return asyncio.run(drain(load_config(path), path, arguments.name, keep_running=arguments.keep_running))


async def drain(config: Config, path: Path, name: str, *, keep_running: bool) -> int:
    """Drain a process and wait until it is done; return the exit code."""
    async with fleet_reader(config, path) as reader:
        fleet = await reader.read()
        process = fleet.find(name)
        _check(fleet, process, keep_running)
        async with own_writer(config, "skep-drain") as writer:
            leaving = None if keep_running else process.lease
            await writer.write(ASK_DRAIN, AskDrain(process=name, leaving=leaving))
        limit_s = config.workers.drain_limit_s + config.replication.heartbeat_s + _GRACE_S
        return await _wait(reader, process, keep_running, limit_s)


def _check(fleet: Fleet, process: ProcessRow, keep_running: bool) -> None:
    name, worker_type = process.process, process.type
    if keep_running and worker_type == "main":
        raise UsageError(f"{name} owns no slots, so --keep-running has no meaning for it: leave it out.")
    if not fleet.others(process):
        start = "skep main" if worker_type == "main" else f"skep worker {worker_type}"
        raise UsageError(
            f"{name} is the only {worker_type} that serves, so no other could take over. Start one first ({start})."
            f" To stop it anyway: kill -TERM {process.pid} on {process.host}."
        )
    if worker_type != "main":
        fleet.must_be_led()


async def _wait(reader: FleetReader, process: ProcessRow, keep_running: bool, limit_s: float) -> int:
    name, shown, left = process.process, -1, 0
    async for fleet in reader.looks(limit_s):
        now = next((p for p in fleet.living if p.lease == process.lease), None)
        left = fleet.slots_of(process)
        if now is None:
            print(f"{name} has ended{'' if keep_running or not left else f'; {left} slots wait for the leader'}.")
            return 0
        if keep_running and now.draining and not left:
            print(f"{name} is drained and keeps running. Give it slots again with: skep undrain {name}")
            return 0
        if left != shown and kind_owned_by(process.type):
            print(f"{name}: {left} slots left", flush=True)
            shown = left
    raise UsageError(
        f"{name} still runs after {limit_s:g} s"
        + (f" and owns {left} slots, whose requests take long" if left else "")
        + f". The drain continues: look with `skep status` and in its log, or cancel it with `skep undrain {name}`."
    )
