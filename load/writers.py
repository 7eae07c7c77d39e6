"""Scenario `writers`: the cost of an operation in a stream with more writers, and their waits for each other.

    python -m load.writers                                 all streams, 1, 2 and 4 writers, three rounds
    python -m load.writers --streams receipts,typing --rounds 5 --rate 150

The fleet has the greatest number of persisters and client_apis, and all of them always run. A case is one stream with a
number of writers: the same rate of requests, shared among that many processes, with direct connections of users and
rooms whose slots they own. The cases of a round run one after another, so that other work on the machine affects all of
them. The rounds show the noise. Each round measures the idle fleet, and subtracts its cost.

`ratio` is the cost with several writers divided by that with one writer: the mean of the rounds, with the least and the
greatest in brackets. `waits` is the number of samples of Postgres, fifty a second, in which a writer's statement waited
for a lock of another writer.
"""

import argparse
import asyncio
import itertools
import sys
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

import asyncpg
import orjson
import uvloop

from load.harness.fleet import Target, own_fleet
from load.harness.measure import GENERATOR, Process, Sample, circumstances, cost, listed_processes, take_sample
from load.harness.scenario import counts
from load.harness.writer_clients import CLIENTS, WRITES, Client, clients_of_writers
from load.idle_workers import idle_workers

_SETTLE_S = 1.0
_WARM_UP_S = 1.0
_SAMPLE_EVERY_S = 0.02
#: Writers whose statements wait for a lock, and the writers that hold it.
_WAITING = """
    SELECT waiting.application_name || ' for ' || holder.application_name
    FROM pg_stat_activity waiting
    CROSS JOIN LATERAL unnest(pg_blocking_pids(waiting.pid)) AS blocking(pid)
    JOIN pg_stat_activity holder ON holder.pid = blocking.pid
    WHERE waiting.datname = current_database() AND waiting.wait_event_type = 'Lock'
      AND waiting.application_name LIKE 'skep-writer-%' AND holder.application_name LIKE 'skep-writer-%'
      AND waiting.application_name <> holder.application_name
"""


@dataclass(slots=True)
class Case:
    """The rounds of one stream with one number of writers.

    cpu_ms: of one operation, in each round.
    rows: the positions taken in the stream, 0 for streams that are not stored.
    waits: by pair of writers.
    """

    cpu_ms: list[float] = field(default_factory=list)
    operations: int = 0
    rows: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    waits: Counter[str] = field(default_factory=Counter)
    samples: int = 0


class Scenario:
    def __init__(self, target: Target, arguments: argparse.Namespace, database: asyncpg.Connection) -> None:
        self._target = target
        self._arguments = arguments
        self._database = database
        self._processes: list[Process] = []
        self._clients: dict[str, list[list[Client]]] = {}  # worker type -> the clients of each writer
        self._idle_cpu_per_s = 0.0

    async def run(self) -> dict[tuple[str, int], Case]:
        cases: dict[tuple[str, int], Case] = defaultdict(Case)
        self._processes = listed_processes(self._target.status())
        streams, counts = self._arguments.streams, self._arguments.writers
        loads = 1 + self._arguments.rounds
        most = int(loads * len(counts) * self._arguments.rate * self._arguments.seconds) // CLIENTS + 10
        for kind in ("event_persister", "client_api"):
            self._clients[kind] = await clients_of_writers(
                self._target, self._database, self._processes, kind, max(counts), most
            )
        for stream, count in itertools.product(streams, counts):
            await self._load(stream, count, _WARM_UP_S, Case())  # warms up
        for number in range(self._arguments.rounds):
            self._idle_cpu_per_s = await self._idle()
            for stream in streams:
                # Rotate the order, so that growth with time does not look like an effect of the number of writers.
                turned = (*counts[number % len(counts) :], *counts[: number % len(counts)])
                for count in turned:
                    await self._measure(stream, count, cases[stream, count])
            print(f"round {number + 1} of {self._arguments.rounds}", file=sys.stderr, flush=True)
        return cases

    async def _measure(self, stream: str, count: int, case: Case) -> None:
        await asyncio.sleep(_SETTLE_S)
        position = await self._position(stream)
        before = await self._sample(last=False)
        async with self._sampling(case):
            done = await self._load(stream, count, self._arguments.seconds, case)
        spent = cost(before, await self._sample(last=True))
        cpu_s = _of_servers(spent.cpu_s) - self._idle_cpu_per_s * spent.seconds
        case.cpu_ms.append(1000 * cpu_s / max(1, done))
        case.operations += done
        case.rows += await self._position(stream) - position

    async def _position(self, stream: str) -> int:
        """Return the last position taken in a stream, 0 for one that is not stored."""
        if await self._database.fetchval("SELECT to_regclass($1) IS NULL", f"stream_{stream}"):
            return 0
        position: int = await self._database.fetchval(f"SELECT last_value FROM stream_{stream}")  # noqa: S608
        return position

    async def _idle(self) -> float:
        """Return the CPU seconds per second of the idle fleet, including the sampling."""
        await asyncio.sleep(_SETTLE_S)
        before = await self._sample(last=False)
        async with self._sampling(Case()):
            await asyncio.sleep(self._arguments.seconds)
        spent = cost(before, await self._sample(last=True))
        return _of_servers(spent.cpu_s) / spent.seconds

    async def _sample(self, *, last: bool) -> Sample:
        return await take_sample(self._processes, None, last=last)

    async def _load(self, stream: str, count: int, seconds: float, case: Case) -> int:
        """Send at an even pace to a number of writers. Return the number of successful requests."""
        kind = "event_persister" if stream == "events" else "client_api"
        free: asyncio.Queue[Client] = asyncio.Queue()
        for turn in zip(*self._clients[kind][:count], strict=True):
            for client in turn:
                free.put_nowait(client)
        began_s = time.monotonic()
        running: list[asyncio.Task[bool]] = []
        for number in range(int(seconds * self._arguments.rate)):
            await asyncio.sleep(max(0.0, began_s + number / self._arguments.rate - time.monotonic()))
            client = await free.get()
            running.append(asyncio.create_task(self._one(stream, client, case, free)))
        return sum(await asyncio.gather(*running))

    async def _one(self, stream: str, client: Client, case: Case, free: "asyncio.Queue[Client]") -> bool:
        status, answer = await client.write(stream)
        if status != 200:
            case.errors[f"{status} {answer[:80].decode(errors='replace')}"] += 1
        free.put_nowait(client)
        return status == 200

    @asynccontextmanager
    async def _sampling(self, case: Case) -> AsyncIterator[None]:
        async def sample() -> None:
            while True:
                case.waits.update(row[0] for row in await self._database.fetch(_WAITING))
                case.samples += 1
                await asyncio.sleep(_SAMPLE_EVERY_S)

        task = asyncio.create_task(sample())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def _of_servers(cpu_s: Mapping[str, float]) -> float:
    """Return the CPU seconds of workers, Postgres and Redis. haproxy is not used: connections are direct."""
    return sum(spent for group, spent in cpu_s.items() if group not in (GENERATOR, "haproxy"))


def _values(cases: Mapping[tuple[str, int], Case]) -> list[dict[str, Any]]:
    least = min(count for _, count in cases)
    values = []
    for (stream, count), case in cases.items():
        ratios = [cpu / one for cpu, one in zip(case.cpu_ms, cases[stream, least].cpu_ms, strict=True) if one > 0]
        values.append(
            {
                "stream": stream,
                "writers": count,
                "operations": case.operations,
                "rows_per_operation": round(case.rows / max(1, case.operations), 2),
                "cpu_ms_per_operation": [round(each, 3) for each in case.cpu_ms],
                "ratios": [round(each, 3) for each in ratios],
                "waits": dict(case.waits),
                "samples": case.samples,
                "errors": dict(case.errors),
            }
        )
    return values


def _text(values: list[dict[str, Any]]) -> str:
    heads = ("stream", "writers", "CPU ms", "ratio", "rows", "waits")
    lines = ["{:14} {:>7} {:>24} {:>24} {:>6} {:>12}".format(*heads)]
    for each in values:
        spans = [_span(each[name]) for name in ("cpu_ms_per_operation", "ratios")]
        waits = f"{sum(each['waits'].values())} of {each['samples']}"
        lines.append(
            f"{each['stream']:14} {each['writers']:>7} {spans[0]:>24} {spans[1]:>24}"
            f" {each['rows_per_operation']:>6} {waits:>12}"
        )
        lines += [f"    {count} x {what}" for what, count in each["errors"].items()]
    return "\n".join(lines)


def _span(values: list[float]) -> str:
    return f"{mean(values):.3f} ({min(values):.3f} - {max(values):.3f})" if values else "-"


async def run(target: Target, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each case. The fleet must have enough writers of each type."""
    database = await asyncpg.connect(target.status()["database"], timeout=5)
    try:
        return _values(await Scenario(target, arguments, database).run())
    finally:
        await database.close()


def _streams(text: str) -> list[str]:
    names = text.split(",")
    if unknown := sorted(set(names) - WRITES.keys()):
        raise argparse.ArgumentTypeError(f"unknown stream: {', '.join(unknown)}")
    return names


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=_streams, default=list(WRITES), help="some of: " + ", ".join(WRITES))
    parser.add_argument("--writers", type=counts, default=[1, 2, 4], help="numbers of writers (1,2,4)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds (3)")
    parser.add_argument("--rate", type=float, default=100, help="operations per second (100)")
    parser.add_argument("--seconds", type=float, default=5, help="seconds of a case in a round (5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON too")
    arguments = parser.parse_args()
    with own_fleet() as target:
        listed = [each.type for each in listed_processes(target.status())]
        kinds = ("event_persister", "client_api")
        more = [kind for kind in kinds for _ in range(max(arguments.writers) - listed.count(kind))]
        with idle_workers(target, len(more), more):
            time.sleep(6)  # slots move to the new workers
            values = uvloop.run(run(target, arguments))
    facts = circumstances()
    print("  ".join(f"{name} {value}" for name, value in facts.items()), _text(values), sep="\n\n")
    if arguments.json:
        figures = {"scenario": "writers", "facts": facts, "cases": values}
        arguments.json.write_bytes(orjson.dumps(figures, option=orjson.OPT_INDENT_2))
    return 1 if any(each["errors"] for each in values) else 0


if __name__ == "__main__":
    sys.exit(main())
