"""Scenario `room_graph`: a room with many membership changes, and branches from any of its events.

    python -m load.room_graph                                  50,000 changes, then 1,000 branches
    python -m load.room_graph --changes 1000                   branches in a small room
    python -m load.room_graph --forks 0                        a big room without branches

The events are generated for other servers, signed, and given to the room's persister in batches, as a federation reader
does. At the end the room's state is compared with a resolution of its own. With `--no-local-members`, no local user can
send the events that join branches, so all of them stay open.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
import uvloop

from load.harness.clients import User, register
from load.harness.expected_state import expected_state
from load.harness.fleet import Target, own_fleet
from load.harness.generated_room import ADMIN, MODERATORS, GeneratedRoom, branches, membership_changes
from load.harness.measure import PROGRAMS, Process, Sample, circumstances, cost, listed_processes, scrape, take_sample
from load.harness.memory import begin_peaks, peak_mib
from load.harness.room_owner import RoomOwner, read_room
from load.harness.table_sizes import bytes_of, get_sizes
from shared.core.events import Event, parse_event
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import get_room_version
from shared.core.state_resolution import StateKey
from shared.storage.engine.text_codec import set_text_codec
from shared.storage.events.batch import REJECTED

_SETTLE_LIMIT_S = 60.0
_BLOCKED_S = 0.05


@dataclass(frozen=True, slots=True)
class Parameters:
    """The load.

    changes: the number of membership changes, one after another.
    forks: the number of events after random events among the last `reach`.
    batch, fork_batch: the events in one call.
    settled_after_s: a phase ends when the extremities stay the same for this time.
    """

    changes: int
    forks: int
    reach: int
    batch: int
    fork_batch: int
    no_local_members: bool
    room_version: str
    seed: int
    settled_after_s: float


@dataclass(slots=True)
class Phase:
    """The cost of one part of the load for the persister."""

    name: str
    events: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Any] = field(default_factory=dict)


class Scenario:
    def __init__(self, target: Target, parameters: Parameters, database: asyncpg.Connection) -> None:
        self._target = target
        self._parameters = parameters
        self._database = database
        self._status = target.status()
        self._room: GeneratedRoom
        self._owner: RoomOwner

    async def run(self) -> dict[str, Any]:
        """Create the room, load it, and check the result."""
        parameters, rng = self._parameters, random.Random(self._parameters.seed)
        await self._begin()
        phases = [await self._phase("changes", membership_changes(self._room, parameters.changes, rng))]
        if parameters.forks:
            forks = branches(self._room, parameters.forks, parameters.reach, rng)
            phases.append(await self._phase("forks", forks))
        self._owner.close()
        return {
            "scenario": "room_graph",
            "facts": circumstances(),
            "parameters": {name: getattr(parameters, name) for name in Parameters.__slots__},
            "phases": {phase.name: {"events": phase.events, **phase.outcomes, **phase.figures} for phase in phases},
            "end": await self._compare(),
        }

    async def _begin(self) -> None:
        """Let a local user create the room, and find its owner."""
        founder = await register(*self._target.address, f"load-founder-{int(time.time()):x}{os.getpid():x}")
        room_id = await _create_room(founder, self._parameters.room_version)
        if self._parameters.no_local_members:
            await founder.request("POST", f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/leave", {})
        founder.connection.close()
        self._room = await read_room(self._status["database"], room_id)
        self._room_nid = await self._database.fetchval("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
        self._owner = RoomOwner(self._target, room_id)
        listed, own = listed_processes(self._status), self._owner.process
        self._processes = [each for each in listed if each.name == own.name or each.type in PROGRAMS]
        others = (each for each in listed if each.type == own.type and each.name != own.name)
        self._idle = next(others, None)  # delays of its loop come from the machine

    async def _phase(self, name: str, events: Iterable[Event]) -> Phase:
        made = list(events)
        size = self._parameters.batch if name == "changes" else self._parameters.fork_batch
        phase = Phase(name, len(made))
        begin_peaks([self._owner.process])
        metrics_before, idle_before = scrape(self._owner.process), self._idle_metrics()
        before = await take_sample(self._processes, self._status["database"], last=False)
        seconds: list[float] = []
        for first in range(0, len(made), size):
            started_s = time.perf_counter()
            phase.outcomes += await self._owner.receive(made[first : first + size])
            seconds.append(time.perf_counter() - started_s)
        received_s = sum(seconds)
        most = await self._settle()
        after = await take_sample(self._processes, self._status["database"], last=True)
        phase.figures = {
            "seconds": round(received_s, 1),
            "slowest_batch_s": round(max(seconds), 3),
            "most_extremities_seen": most,
            **_cost_figures(before, after, self._owner.process, len(made)),
            **_loop(metrics_before, scrape(self._owner.process), "loop"),
            **_loop(idle_before, self._idle_metrics(), "idle_persisters_loop"),
            **_resolutions(metrics_before, scrape(self._owner.process)),
            **await self._storage(),
        }
        return phase

    def _idle_metrics(self) -> dict[str, float]:
        return {} if self._idle is None else scrape(self._idle)

    async def _settle(self) -> int:
        """Wait until no more events join branches. Return the greatest number of extremities."""
        most, last, since_s = 0, None, time.monotonic()
        end_s = since_s + _SETTLE_LIMIT_S
        while time.monotonic() < end_s:
            extremities = await self._extremities()
            most = max(most, len(extremities))
            if extremities != last:
                last, since_s = extremities, time.monotonic()
            elif time.monotonic() - since_s > self._parameters.settled_after_s:
                break
            await asyncio.sleep(0.1)
        return most

    async def _extremities(self) -> list[int]:
        sql = "SELECT event_nids FROM forward_extremities WHERE room_nid = $1"
        return list(await self._database.fetchval(sql, self._room_nid))

    async def _storage(self) -> dict[str, Any]:
        """Return the bytes of the room's stored states and of the JSON of its state events (P9)."""
        sizes = await get_sizes(self._database)
        raw = await self._database.fetchval(
            "SELECT sum(length(json)) FROM events WHERE room_nid = $1 AND state_key IS NOT NULL", self._room_nid
        )
        tables = {name: bytes_of(sizes, name) for name in ("state_snapshots", "state_changes", "current_state")}
        return {
            "state_json_bytes": raw,
            "state_storage_bytes": {
                f"{name} {part}": size
                for name, both in tables.items()
                for part, size in zip(("rows", "indexes"), both, strict=True)
            },
            "state_storage_ratio": round(sum(map(sum, tables.values())) / raw, 2),
            "memberships_bytes": sum(bytes_of(sizes, "memberships")),
        }

    async def _compare(self) -> dict[str, Any]:
        """Compare the room's state with the resolution of its branches."""
        room = self._room
        rows = await self._database.fetch(
            "SELECT event_nid, event_id, json, status FROM events WHERE room_nid = $1 ORDER BY position", self._room_nid
        )
        ids = {nid: EventId(event_id) for nid, event_id, _, _ in rows}
        branched = [parse_event(room.version, json) for _, event_id, json, _ in rows if event_id not in room.index]
        rejected = frozenset(EventId(event_id) for _, event_id, _, status in rows if status == REJECTED)
        extremities = await self._extremities()
        started_s = time.process_time()
        expected = expected_state(room, branched, [ids[nid] for nid in extremities], rejected)
        replay_s = time.process_time() - started_s
        stored: dict[StateKey, EventId] = {
            (kind, key): ids[nid]
            for kind, key, nid in await self._database.fetch(
                "SELECT type, state_key, event_nid FROM current_state WHERE room_nid = $1", self._room_nid
            )
        }
        wrong = [key for key in expected.keys() | stored.keys() if expected.get(key) != stored.get(key)]
        return {
            "events": len(rows),
            "local_events": sum(not event.sender.endswith(".example") for event in branched),
            "extremities": len(extremities),
            "state_entries": len(stored),
            "wrong_entries": len(wrong),
            "replay_cpu_s": round(replay_s, 1),
        }


async def _create_room(founder: User, room_version: str) -> RoomId:
    users = {ADMIN: 90, **dict.fromkeys(MODERATORS, 50)}
    if not get_room_version(room_version).creators_outrank_all:
        users[founder.user_id] = 100
    levels = {"users": users, "state_default": 50, "events": {"m.room.power_levels": 90}}
    options = {"preset": "public_chat", "room_version": room_version, "power_level_content_override": levels}
    return RoomId((await founder.request("POST", "/_matrix/client/v3/createRoom", options))["room_id"])


def _cost_figures(before: Sample, after: Sample, owner: Process, events: int) -> dict[str, Any]:
    spent = cost(before, after)
    persister_s, postgres_s = spent.cpu_s[owner.type], spent.cpu_s["postgres"]
    return {
        "persister_cpu_s": round(persister_s, 2),
        "persister_cpu_ms_per_event": round(1000 * persister_s / events, 3),
        "postgres_cpu_ms_per_event": round(1000 * postgres_s / events, 3),
        "statements_per_event": round((spent.statements or 0) / events, 3),
        "wal_bytes_per_event": round((spent.wal_bytes or 0) / events),
        "peak_memory_mib": int(peak_mib(owner.pid)),
    }


_LE = re.compile(r'le="([^"]+)"')


def _loop(before: dict[str, float], after: dict[str, float], name: str) -> dict[str, Any]:
    """Return how late the loop woke its watch, which sleeps ten times a second."""
    samples = _histogram(before, after, "skep_loop_blocked_seconds", "")
    if not samples:
        return {}
    return {
        f"{name}_samples": int(samples[-1][1]),
        f"{name}_blocked_over_50_ms": int(samples[-1][1] - dict(samples)[_BLOCKED_S]),
        f"{name}_blocked_at_most_s": _longest(samples),
    }


def _resolutions(before: dict[str, float], after: dict[str, float]) -> dict[str, Any]:
    lanes = {}
    for lane in ("loop", "quick", "big"):
        times = _histogram(before, after, "skep_state_resolution_seconds", f'lane="{lane}"')
        count = times[-1][1] if times else 0
        if count:
            total = f'skep_state_resolution_seconds_sum{{lane="{lane}"}}'
            mean_ms = 1000 * (after[total] - before.get(total, 0.0)) / count
            lanes[lane] = {"count": int(count), "mean_ms": round(mean_ms, 2), "at_most_s": _longest(times)}
    return {"resolutions": lanes}


def _histogram(before: dict[str, float], after: dict[str, float], name: str, label: str) -> list[tuple[float, float]]:
    """Return the growth of a histogram's cumulative buckets."""
    found = [
        (float(bound[1]), value - before.get(key, 0.0))
        for key, value in after.items()
        if key.startswith(name + "_bucket") and label in key and (bound := _LE.search(key))
    ]
    return sorted(found)


def _longest(buckets: Sequence[tuple[float, float]]) -> float | str:
    """Return the least bound of a bucket that holds all values."""
    if not buckets:
        return 0.0
    bound = next(bound for bound, count in buckets if count == buckets[-1][1])
    return bound if bound != float("inf") else f"over {buckets[-2][0]}"


async def run(target: Target, parameters: Parameters) -> dict[str, Any]:
    """Return all figures. Raises RequestFailed if the persister refuses the events."""
    database = await asyncpg.connect(target.status()["database"], timeout=5)
    set_text_codec(database)
    try:
        return await Scenario(target, parameters, database).run()
    finally:
        await database.close()


def as_text(result: dict[str, Any]) -> str:
    lines = ["room_graph: " + "  ".join(f"{name} {value}" for name, value in result["parameters"].items())]
    lines.append("  ".join(f"{name} {value}" for name, value in result["facts"].items()))
    for name, figures in [*result["phases"].items(), ("end", result["end"])]:
        lines += ["", f"{name}:"]
        for figure, value in figures.items():
            parts = value.items() if isinstance(value, dict) else [("", value)]
            lines += [f"  {(figure + ' ' + part).strip():44} {number}" for part, number in parts]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running fleet with open registration and no rate limits; default: start one")
    parser.add_argument("--config", type=Path, help="its configuration (with --url)")
    parser.add_argument("--changes", type=int, default=50_000, help="membership changes, at least 100 (50000)")
    parser.add_argument("--forks", type=int, default=1000, help="branches, of one event each (1000)")
    parser.add_argument("--reach", type=int, default=500, help="branches start within this many last events (500)")
    parser.add_argument("--batch", type=int, default=200, help="changes in one call (200)")
    parser.add_argument("--fork-batch", type=int, default=50, help="branches in one call (50)")
    parser.add_argument("--no-local-members", action="store_true", help="no local user joins branches")
    parser.add_argument("--room-version", default="12", help="version of the room (12)")
    parser.add_argument("--seed", type=int, default=1, help="the seed of random choices (1)")
    settled = "seconds without new extremities that end a phase (5)"
    parser.add_argument("--settled-after", type=float, default=5.0, dest="settled_after_s", help=settled)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON there too (-: print it)")
    arguments = vars(parser.parse_args())
    url, config, output = (arguments.pop(name) for name in ("url", "config", "json"))
    if url and config is None:
        parser.error("--url needs --config, to find the room's owner and the database")
    parameters = Parameters(**arguments)
    if url:
        result = uvloop.run(run(Target(url, config), parameters))
    else:
        with own_fleet() as target:
            result = uvloop.run(run(target, parameters))
    encoded = orjson.dumps(result, option=orjson.OPT_INDENT_2)
    print(encoded.decode() if output == Path("-") else as_text(result))
    if output and output != Path("-"):
        output.write_bytes(encoded)
    return 1 if result["end"]["wrong_entries"] else 0


if __name__ == "__main__":
    sys.exit(main())
