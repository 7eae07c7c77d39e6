"""The parts that scenarios with several cases share: users and rooms, measured cases, the command line, comparisons.

A scenario is a function `run(target, arguments)` that returns one `Result` for each case. `main` does the rest.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import uvloop
import yaml

from load.harness.clients import User, register
from load.harness.fleet import HERE, Target, checked_out, own_fleet
from load.harness.measure import cost, listed_processes, sum_of, take_sample
from load.harness.memory import Budget, begin_peaks, end_peaks, resident_mib
from load.harness.report import Result, as_json, comparison
from shared.config.sections import Caches
from shared.core.identifiers import RoomId

T = TypeVar("T")

Run: TypeAlias = Callable[[Target, argparse.Namespace], Coroutine[Any, Any, list[Result]]]

_SETUP_AT_ONCE = 16
_CREATE = {"preset": "public_chat"}
_LAZY = quote('{"room":{"state":{"lazy_load_members":true}}}')
#: The query of a sync with all members, and of one with lazy loading.
FULL_AND_LAZY = {"full": "", "lazy": f"?filter={_LAZY}"}


async def at_once(work: Iterable[Awaitable[T]], limit: int = _SETUP_AT_ONCE) -> list[T]:
    """Await all, at most `limit` at a time. Return their results in order."""
    semaphore = asyncio.Semaphore(limit)

    async def one(each: Awaitable[T]) -> T:
        async with semaphore:
            return await each

    return await asyncio.gather(*map(one, work))


async def new_users(target: Target, kind: str, count: int) -> list[User]:
    """Register users."""
    run_name = f"{time.time_ns():x}"
    return await at_once(register(*target.address, f"{kind}-{run_name}-{number}") for number in range(count))


async def new_room(creator: User, options: Mapping[str, Any] = _CREATE) -> RoomId:
    """Create a room and return its id."""
    answer = await creator.request("POST", "/_matrix/client/v3/createRoom", dict(options))
    room_id: RoomId = answer["room_id"]
    return room_id


def counts(text: str) -> list[int]:
    """Parse "5,200" for the command line."""
    return [int(part) for part in text.split(",")]


async def join(user: User, room_id: RoomId) -> None:
    await user.request("POST", f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/join", {})


def send_path(room_id: RoomId, txn_id: str) -> str:
    return f"/_matrix/client/v3/rooms/{quote(room_id, safe='')}/send/m.room.message/{txn_id}"


def message(size: int = 100) -> bytes:
    """Return the encoded content of a message. It is encoded once, since the generator must stay cheap."""
    return b'{"msgtype":"m.text","body":"%b"}' % (b"x" * size)


@dataclass(slots=True)
class Tally:
    """The counts of a measured case: the latency of each successful operation, and errors by name."""

    latencies_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    result: Result | None = None

    async def timed(self, work: Awaitable[tuple[int, bytes]]) -> bytes:
        """Record the latency of a request and return its answer. Any status but 200 is an error."""
        started_s = time.perf_counter()
        status, answer = await work
        if status == 200:
            self.latencies_s.append(time.perf_counter() - started_s)
        else:
            self.errors[f"status {status}"] += 1
        return answer


class Bench:
    """Measures cases on one fleet. Create it while the fleet is new, to learn the memory of idle processes."""

    def __init__(self, target: Target, scenario: str, operation: str) -> None:
        self._scenario, self._operation = scenario, operation
        self.find_processes(target)
        self._budget = None
        if target.config is not None:
            caches = _caches(target.config)
            # There are two caches of users: their tokens, and their state in /sync.
            allowed = caches.rooms_bytes + 2 * caches.users_bytes + caches.answers_bytes
            empty = {each.name: resident_mib(each.pid) for each in self.processes}
            self._budget = Budget(empty, allowed)

    def find_processes(self, target: Target) -> None:
        """Find the processes of the fleet, again after a restart of some."""
        status = target.status()
        self.database: str | None = status["database"]
        self.processes = listed_processes(status)

    @asynccontextmanager
    async def case(self, name: str, parameters: Mapping[str, Any], operation: str = "") -> AsyncIterator[Tally]:
        """Measure the body. The tally has the result afterwards. operation: replaces the scenario's operation."""
        tally = Tally()
        before_mib = begin_peaks(self.processes)
        before = await take_sample(self.processes, self.database, last=False)
        yield tally
        after = await take_sample(self.processes, self.database, last=True)
        memory = end_peaks(self.processes, before_mib, self._budget)
        tally.result = Result(
            scenario=self._scenario,
            operation=operation or self._operation,
            parameters=parameters,
            latencies_s=tally.latencies_s,
            errors=tally.errors,
            cost=cost(before, after),
            case=name,
            memory=memory,
        )


def _caches(config: Path) -> Caches:
    """Read the budgets alone: the fleet of another commit may have settings that this one does not know."""
    given = yaml.safe_load(config.read_bytes()).get("caches") or {}
    known = {each.name for each in fields(Caches)}
    return Caches(**{name: value for name, value in given.items() if name in known})


def results(*tallies: Tally) -> list[Result]:
    return [tally.result for tally in tallies if tally.result is not None]


def merged(runs: Sequence[Result]) -> Result:
    """Merge the results of several runs of one case."""
    memory = {name: used for run in sorted(runs, key=_peak) for name, used in run.memory.items()}
    return replace(
        runs[0],
        latencies_s=[each for run in runs for each in run.latencies_s],
        errors=sum((Counter(run.errors) for run in runs), Counter()),
        cost=sum_of([run.cost for run in runs]),
        memory=memory,
    )


def _peak(result: Result) -> float:
    return max((used.peak for used in result.memory.values() if used.share), default=0.0)


def _compare(run: Run, commit: str, arguments: argparse.Namespace) -> tuple[list[list[Result]], list[list[Result]]]:
    others: list[list[Result]] = []
    ours: list[list[Result]] = []
    with checked_out(commit) as code:
        for number in range(arguments.repeat):
            for found, directory in ((others, code), (ours, HERE)):
                print(f"round {number + 1} of {arguments.repeat}: {directory}", file=sys.stderr, flush=True)
                with own_fleet(directory) as target:
                    found.append(uvloop.run(run(target, arguments)))
    return others, ours


def main(description: str, run: Run, add_arguments: Callable[[argparse.ArgumentParser], None]) -> int:
    """Run a scenario from the command line: on a fleet of its own, on a running one, or compared with a commit."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running fleet with open registration and no rate limits; default: start one")
    parser.add_argument("--config", type=Path, help="its configuration; needed to measure CPU")
    parser.add_argument("--compare", metavar="COMMIT", help="measure that commit too, on fleets of its own")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of a comparison (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON there too (-: print them)")
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.url and arguments.compare:
        parser.error("--compare starts its own fleets, so it takes no --url")
    if arguments.compare:
        others, ours = _compare(run, arguments.compare, arguments)
        shown, found = comparison(arguments.compare, others, ours), [r for runs in (*others, *ours) for r in runs]
    else:
        found = _run_here(run, arguments)
        shown = "\n\n".join(result.as_text() for result in found)
    encoded = as_json(found)
    print(encoded.decode() if arguments.json == Path("-") else shown)
    if arguments.json and arguments.json != Path("-"):
        arguments.json.write_bytes(encoded)
    return 1 if any(result.errors for result in found) else 0


def _run_here(run: Run, arguments: argparse.Namespace) -> list[Result]:
    if arguments.url:
        return uvloop.run(run(Target(arguments.url, arguments.config), arguments))
    with own_fleet() as target:
        return uvloop.run(run(target, arguments))
