"""Scenario `send`: closed-loop senders over many rooms. Each sender sends again as soon as they have the answer.

    python -m load.send                                       on a fleet of its own
    python -m load.send --url http://127.0.0.1:8008 --config data/run/skep.yaml
    python -m load.send --senders 1,8,64                      one after another, each with its own users and rooms
    python -m load.send --senders 1,8,64 --compare COMMIT     compared with another commit, in turns

This is the cost of sending alone. `--listeners` adds users who are joined to every room and long-poll /sync.
"""

import argparse
import asyncio
import itertools
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import uvloop

from load.harness.clients import RequestFailed, User, register
from load.harness.fleet import HERE, Target, checked_out, own_fleet
from load.harness.measure import cost, listed_processes, take_sample
from load.harness.report import Growth, Result, as_json, comparison
from load.harness.table_sizes import Sizes, get_sizes, growth

_SETUP_AT_ONCE = 16
_SYNC_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """The load.

    warm_up: seconds of the same load before the measurement.
    least_events: the measurement continues until there are this many events.
    """

    senders: int
    rooms: int
    seconds: float
    message_bytes: int
    listeners: int
    warm_up: float
    room_version: str
    least_events: int = 0


@dataclass(slots=True)
class Tally:
    """The counts of the senders."""

    latencies_s: list[float]
    errors: Counter[str]


async def run(target: Target, parameters: Parameters) -> Result:
    """Set up, warm up, measure."""
    senders, listeners, rooms = await _set_up(target, parameters)
    status = target.status()
    processes = listed_processes(status)
    stop = asyncio.Event()
    listening = [asyncio.create_task(_listen(user, stop)) for user in listeners]
    size = parameters.message_bytes
    await _send_for(parameters.warm_up, senders, rooms, size)
    sizes, position = await _sizes(status["database"])
    before = await take_sample(processes, status["database"], last=False)
    tally = await _send_for(parameters.seconds, senders, rooms, size, parameters.least_events)
    after = await take_sample(processes, status["database"], last=True)
    grown = await _growth(status["database"], sizes, position)
    stop.set()
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for user in (*senders, *listeners):
        user.connection.close()
    spent = cost(before, after)
    case = f"{parameters.senders} senders"
    return Result(
        scenario="send",
        operation="event",
        parameters=asdict(parameters),
        latencies_s=tally.latencies_s,
        errors=tally.errors,
        cost=spent,
        growth=grown,
        case=case,
    )


async def _sizes(dsn: str | None) -> tuple[Sizes, int]:
    """Return the sizes of tables and indexes, and the greatest position of an event."""
    if dsn is None:
        return {}, 0
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        position: int = await connection.fetchval("SELECT coalesce(max(position), 0) FROM events")
        return await get_sizes(connection), position
    finally:
        await connection.close()


async def _growth(dsn: str | None, before: Sizes, position: int) -> Growth | None:
    if dsn is None:
        return None
    after, _ = await _sizes(dsn)
    connection = await asyncpg.connect(dsn, timeout=5)
    try:
        mean = await connection.fetchval("SELECT avg(length(json)) FROM events WHERE position > $1", position)
    finally:
        await connection.close()
    return Growth(growth(before, after), float(mean or 0))


async def _set_up(target: Target, parameters: Parameters) -> tuple[list[User], list[User], list[list[str]]]:
    """Create users and rooms. Room number r belongs to sender r mod senders. With fewer rooms than senders they share.

    Returns the senders, the listeners, and the rooms of each sender.
    """
    run_name = f"{int(time.time()):x}{os.getpid():x}"
    limit = asyncio.Semaphore(_SETUP_AT_ONCE)

    async def make_user(kind: str, number: int) -> User:
        async with limit:
            return await register(*target.address, f"load-{kind}-{run_name}-{number}")

    async def make_rooms(sender: User, first: int) -> list[str]:
        made = []
        for _ in range(first, parameters.rooms, parameters.senders):
            async with limit:
                options = {"preset": "public_chat", "room_version": parameters.room_version}
                answer = await sender.request("POST", "/_matrix/client/v3/createRoom", options)
                made.append(answer["room_id"])
        return made

    async def join(user: User, room: str) -> None:
        async with limit:
            await user.request("POST", f"/_matrix/client/v3/rooms/{quote(room, safe='')}/join", {})

    senders = await asyncio.gather(*(make_user("sender", n) for n in range(parameters.senders)))
    listeners = await asyncio.gather(*(make_user("listener", n) for n in range(parameters.listeners)))
    rooms = await asyncio.gather(*(make_rooms(sender, n) for n, sender in enumerate(senders)))
    everywhere = [room for own in rooms for room in own]
    for number, own in enumerate(rooms):
        if not own:
            own.append(everywhere[number % len(everywhere)])
            await join(senders[number], own[0])
    for listener in listeners:
        for room in everywhere:
            await join(listener, room)
    return list(senders), list(listeners), list(rooms)


async def _send_for(
    seconds: float, senders: Sequence[User], rooms: Sequence[Sequence[str]], size: int, least_events: int = 0
) -> Tally:
    tally = Tally([], Counter())
    end_s = time.perf_counter() + seconds
    await asyncio.gather(
        *(_send(u, own, size, end_s, least_events, tally) for u, own in zip(senders, rooms, strict=True))
    )
    return tally


async def _send(user: User, rooms: Sequence[str], size: int, end_s: float, least_events: int, tally: Tally) -> None:
    paths = [f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/m.room.message/" for room in rooms]
    prefix = f"{random.getrandbits(64):016x}-"
    text = b'{"msgtype":"m.text","body":"%b"}' % (b"x" * size)  # encoded once, since the generator must stay cheap
    for number, path in enumerate(itertools.cycle(paths)):
        started_s = time.perf_counter()
        if started_s >= end_s and len(tally.latencies_s) + sum(tally.errors.values()) >= least_events:
            return
        status, _ = await user.connection.raw_request("PUT", f"{path}{prefix}{number}", text)
        if status == 200:
            tally.latencies_s.append(time.perf_counter() - started_s)
        else:
            tally.errors[f"status {status}"] += 1
            await asyncio.sleep(0.1)  # do not flood a server that refuses at once


async def _listen(user: User, stop: asyncio.Event) -> None:
    since = ""
    while not stop.is_set():
        try:
            path = f"/_matrix/client/v3/sync?timeout={_SYNC_TIMEOUT_MS}{since}"
            since = f"&since={quote((await user.request('GET', path))['next_batch'])}"
        except RequestFailed as error:
            print(f"listener: {error}", file=sys.stderr)
            await asyncio.sleep(0.5)


def run_all(target: Target, every: Sequence[Parameters]) -> list[Result]:
    """Run the load with one number of senders after another."""
    return [uvloop.run(run(target, parameters)) for parameters in every]


def compare(commit: str, repeat: int, every: Sequence[Parameters]) -> tuple[list[list[Result]], list[list[Result]]]:
    """Run the load on fleets of another commit and of this code in turns. Return the results of both."""
    others: list[list[Result]] = []
    ours: list[list[Result]] = []
    with checked_out(commit) as code:
        for number in range(repeat):
            for results, directory in ((others, code), (ours, HERE)):
                print(f"round {number + 1} of {repeat}: {directory}", file=sys.stderr, flush=True)
                with own_fleet(directory) as target:
                    results.append(run_all(target, every))
    return others, ours


def _every(arguments: dict[str, Any]) -> list[Parameters]:
    """Return the parameters for each number of senders. The last run continues until there are enough events."""
    least_events, counts = arguments.pop("least_events"), arguments.pop("senders")
    every = [Parameters(senders=count, **arguments) for count in counts]
    every[-1] = replace(every[-1], least_events=least_events)
    return every


def _counts(text: str) -> list[int]:
    counts = [int(part) for part in text.split(",")]
    if min(counts) < 1:
        raise argparse.ArgumentTypeError("at least one sender")
    return counts


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running fleet with open registration and no rate limits; default: start one")
    parser.add_argument("--config", type=Path, help="its configuration, for `skep status` (CPU needs it)")
    parser.add_argument("--senders", type=_counts, default=[16], help="users who send at the same time (16)")
    parser.add_argument("--rooms", type=int, default=200, help="rooms of the senders (200)")
    parser.add_argument("--seconds", type=float, default=20, help="measured time (20)")
    parser.add_argument("--least-events", type=int, default=0, help="continue until there are this many events (0)")
    parser.add_argument("--message-bytes", type=int, default=200, help="length of each message's text (200)")
    parser.add_argument("--listeners", type=int, default=0, help="members of all rooms who long-poll /sync (0)")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds of load before the measurement (5)")
    parser.add_argument("--room-version", default="12", help="the version of the rooms (12)")
    parser.add_argument("--compare", metavar="COMMIT", help="measure that commit too, on fleets of its own")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of a comparison (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results as JSON there too (-: print them)")
    arguments = vars(parser.parse_args())
    url, config, output, commit, repeat = (
        arguments.pop(name) for name in ("url", "config", "json", "compare", "repeat")
    )
    if url and commit:
        parser.error("--compare starts its own fleets, so it takes no --url")
    every = _every(arguments)
    if commit:
        others, ours = compare(commit, repeat, every)
        shown, results = comparison(commit, others, ours), [r for runs in (*others, *ours) for r in runs]
    else:
        if url:
            results = run_all(Target(url, config), every)
        else:
            with own_fleet() as target:
                results = run_all(target, every)
        shown = "\n\n".join(result.as_text() for result in results)
    encoded = as_json(results)
    print(encoded.decode() if output == Path("-") else shown)
    if output and output != Path("-"):
        output.write_bytes(encoded)
    return 1 if any(result.errors for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
