"""Scenario `idle_workers`: the cost of listening to streams. Workers without work run next to a paced load.

    python -m load.idle_workers                       1, 4 and 8 idle workers at 100 events/s, on a fleet of its own
    python -m load.idle_workers --idle 1,16 --rate 50

The idle workers are started with `skep worker`, with types in turn. They own slots as others do, but the senders' rooms
are in slots of the fleet's own persisters, so that the idle workers get no requests. The first run has no idle workers,
for comparison of Redis' bytes.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import uvloop
import yaml

from load.harness.clients import User, register
from load.harness.fleet import Target, own_fleet
from load.harness.measure import Process, circumstances, listed_processes
from shared.core.slots import slot_of

#: In this order. A synchrotron reads the most streams.
TYPES = (
    "synchrotron",
    "client_api",
    "event_persister",
    "background",
    "federation_reader",
    "federation_sender",
    "media",
)
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ROOMS = 20
_SENDERS = 8
_START_LIMIT_S = 120.0


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of one process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


class RedisCounters:
    """Redis' own counters. section: `redis` of the fleet's configuration."""

    def __init__(self, section: Mapping[str, Any]) -> None:
        self._socket = socket.create_connection((section["host"], section["port"]))
        self._command(f"AUTH {section['password']}")

    def read(self) -> tuple[int, int]:
        """Return (bytes in, bytes out) since the start of Redis."""
        info = self._command("INFO stats")
        values = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        return int(values["total_net_input_bytes"]), int(values["total_net_output_bytes"])

    def _command(self, command: str) -> str:
        self._socket.sendall(command.encode() + b"\r\n")
        data = b""
        while not data.endswith(b"\r\n") or (data.startswith(b"$") and len(data) < _whole(data)):
            data += self._socket.recv(65536)
        return data.decode()


def _whole(bulk: bytes) -> int:
    """Return the length of a bulk reply, including its head and end."""
    head, _, _ = bulk.partition(b"\r\n")
    return len(head) + 4 + int(head[1:])


@contextlib.contextmanager
def idle_workers(target: Target, count: int, types: Sequence[str] = TYPES) -> Iterator[list[Process]]:
    """Start workers in the fleet, with types in turn, and yield them once all are ready."""
    before = {each.name for each in listed_processes(target.status())}
    command = [sys.executable, "-m", "deploy.command.main", "worker"]
    started = [
        subprocess.Popen(
            [*command, types[number % len(types)], "--config", str(target.config)],
            cwd=target.code,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        for number in range(count)
    ]
    try:
        end = time.monotonic() + _START_LIMIT_S
        while True:
            ready = {each["name"] for each in target.status()["processes"] if each.get("ready")}
            new = [each for each in listed_processes(target.status()) if each.name in ready - before]
            if len(new) == count:
                break
            if time.monotonic() > end:
                missing = [types[n % len(types)] for n in range(count)]
                raise RuntimeError(f"only {[each.name for each in new]} of {missing} started")
            time.sleep(0.5)
        yield new
    finally:
        for process in started:
            process.terminate()
        for process in started:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


async def _owners(dsn: str, kind: str) -> dict[int, str]:
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        rows = await connection.fetch(
            "SELECT s.slot, l.process FROM slots s JOIN leases l ON l.lease = s.owner WHERE s.kind = $1", kind
        )
        return {row["slot"]: row["process"] for row in rows}
    finally:
        await connection.close()


async def _senders(target: Target, idle: Sequence[Process], dsn: str) -> list[tuple[User, list[str]]]:
    """Create users and rooms, none of them in a slot of an idle worker."""
    names = {each.name for each in idle}
    owners = await _owners(dsn, "rooms")
    tag = f"{random.getrandbits(32):08x}"
    host, port = target.address
    made = []
    for number in range(_SENDERS):
        user = await register(host, port, f"idle{tag}-{number}")
        rooms: list[str] = []
        while len(rooms) < _ROOMS // _SENDERS + 1:
            answer = await user.request("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat"})
            if owners[slot_of(answer["room_id"])] not in names:
                rooms.append(answer["room_id"])
        made.append((user, rooms))
    return made


async def _send(users: Sequence[tuple[User, list[str]]], rate: float, seconds: float) -> Counter[int]:
    """Send at an even pace, with equal shares for the users. Return the statuses."""
    statuses: Counter[int] = Counter()
    began = time.monotonic()
    prefix = f"{random.getrandbits(64):016x}"

    async def one(number: int, user: User, rooms: Sequence[str]) -> None:
        step_s = len(users) / rate
        due_s = began + number / rate
        count = 0
        while due_s < began + seconds:
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            room = quote(rooms[count % len(rooms)], safe="")
            path = f"/_matrix/client/v3/rooms/{room}/send/m.room.message/{prefix}-{number}-{count}"
            body = b'{"msgtype":"m.text","body":"%b"}' % (b"x" * 200)
            status, _ = await user.connection.raw_request("PUT", path, body)
            statuses[status] += 1
            count += 1
            due_s += step_s

    await asyncio.gather(*(one(number, user, rooms) for number, (user, rooms) in enumerate(users)))
    return statuses


async def measure(target: Target, idle: Sequence[Process], rate: float, seconds: float, redis: RedisCounters) -> Any:
    """Return the figures of a run: CPU of each idle worker in percent of a core, and Redis' bytes per second."""
    users = await _senders(target, idle, target.status()["database"])
    await _send(users, rate, 5.0)
    before, cpu, began = redis.read(), {each.pid: cpu_s(each.pid) for each in idle}, time.monotonic()
    statuses = await _send(users, rate, seconds)
    elapsed = time.monotonic() - began
    after, spent = redis.read(), {each.pid: cpu_s(each.pid) - cpu[each.pid] for each in idle}
    for user, _ in users:
        user.connection.close()
    events = statuses[200]
    return {
        "idle": len(idle),
        "events_per_s": round(events / elapsed, 1),
        "errors": sum(statuses.values()) - events,
        "percent_of_a_core": {each.name: round(100 * spent[each.pid] / elapsed, 2) for each in idle},
        "cpu_ms_per_event": {each.name: round(1000 * spent[each.pid] / max(1, events), 3) for each in idle},
        "redis_in_bytes_per_s": round((after[0] - before[0]) / elapsed),
        "redis_out_bytes_per_s": round((after[1] - before[1]) / elapsed),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", default="1,4,8", help="numbers of idle workers, one run each (1,4,8)")
    parser.add_argument("--rate", type=float, default=100, help="events per second (100)")
    parser.add_argument("--seconds", type=float, default=20, help="measured time of a run (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    runs = []
    with own_fleet() as target:
        assert target.config is not None
        redis = RedisCounters(yaml.safe_load(target.config.read_text())["redis"])
        for count in [0, *map(int, arguments.idle.split(","))]:
            with idle_workers(target, count) as idle:
                time.sleep(4)  # slots move to the new workers
                runs.append(uvloop.run(measure(target, idle, arguments.rate, arguments.seconds, redis)))
                print(f"{count} idle: done", file=sys.stderr, flush=True)
    if arguments.json:
        print(json.dumps({"scenario": "idle_workers", "facts": circumstances(), "runs": runs}, indent=1))
        return 0
    for run in runs:
        print(
            f"{run['idle']} idle, {run['events_per_s']} events/s: Redis {run['redis_in_bytes_per_s']} B/s in, "
            f"{run['redis_out_bytes_per_s']} B/s out"
        )
        for name, percent in run["percent_of_a_core"].items():
            print(f"    {name:24} {percent:6.2f} % of a core  {run['cpu_ms_per_event'][name]:.3f} ms an event")
    return 1 if any(run["errors"] for run in runs) else 0


if __name__ == "__main__":
    sys.exit(main())
