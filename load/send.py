"""Scenario `send`: closed-loop senders over many rooms. Each sender sends as soon as he has his answer.

    python -m load.send                                       on a fleet of its own, thrown away afterwards
    python -m load.send --url http://127.0.0.1:8008 --config data/run/skep.yaml

Nobody listens by default: this is the cost of sending alone. `--listeners` adds users who are joined to every room
and long-poll /sync.
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
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import quote

import uvloop

from load.clients import RequestFailed, User, register
from load.fleet import Target, own_fleet
from load.measure import cost, listed_processes, take_sample
from load.report import Result

_SETUP_AT_ONCE = 16
_SYNC_TIMEOUT_MS = 10_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """warm_up: seconds of the same load before the measured ones: rooms come into memory, statements are prepared."""

    senders: int
    rooms: int
    seconds: float
    message_bytes: int
    listeners: int
    warm_up: float
    room_version: str


@dataclass(slots=True)
class Tally:
    """What the senders note while the load is measured."""

    latencies_s: list[float]
    errors: Counter[str]


async def run(target: Target, parameters: Parameters) -> Result:
    """Set up, warm up, measure."""
    senders, listeners, rooms = await _set_up(target, parameters)
    status = target.status()
    processes = listed_processes(status)
    stop = asyncio.Event()
    listening = [asyncio.create_task(_listen(user, stop)) for user in listeners]
    await _send_for(parameters.warm_up, senders, rooms, parameters.message_bytes)
    before = await take_sample(processes, status["database"], last=False)
    tally = await _send_for(parameters.seconds, senders, rooms, parameters.message_bytes)
    after = await take_sample(processes, status["database"], last=True)
    stop.set()
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
    for user in (*senders, *listeners):
        user.connection.close()
    return Result("send", "event", asdict(parameters), tally.latencies_s, tally.errors, cost(before, after))


async def _set_up(target: Target, parameters: Parameters) -> tuple[list[User], list[User], list[list[str]]]:
    """Make users and rooms. Room number r belongs to sender r mod senders; with fewer rooms than senders they share.

    Returns senders, listeners, and for each sender the rooms that he sends to.
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


async def _send_for(seconds: float, senders: Sequence[User], rooms: Sequence[Sequence[str]], size: int) -> Tally:
    tally = Tally([], Counter())
    end_s = time.perf_counter() + seconds
    await asyncio.gather(*(_send(u, own, size, end_s, tally) for u, own in zip(senders, rooms, strict=True)))
    return tally


async def _send(user: User, rooms: Sequence[str], size: int, end_s: float, tally: Tally) -> None:
    paths = [f"/_matrix/client/v3/rooms/{quote(room, safe='')}/send/m.room.message/" for room in rooms]
    prefix = f"{random.getrandbits(64):016x}-"
    text = b'{"msgtype":"m.text","body":"%b"}' % (b"x" * size)  # encoded once: the generator must stay cheap
    for number, path in enumerate(itertools.cycle(paths)):
        started_s = time.perf_counter()
        if started_s >= end_s:
            return
        status, _ = await user.connection.raw_request("PUT", f"{path}{prefix}{number}", text)
        if status == 200:
            tally.latencies_s.append(time.perf_counter() - started_s)
        else:
            tally.errors[f"status {status}"] += 1
            await asyncio.sleep(0.1)  # a server that refuses at once must not be flooded


async def _listen(user: User, stop: asyncio.Event) -> None:
    since = ""
    while not stop.is_set():
        try:
            path = f"/_matrix/client/v3/sync?timeout={_SYNC_TIMEOUT_MS}{since}"
            since = f"&since={quote((await user.request('GET', path))['next_batch'])}"
        except RequestFailed as error:
            print(f"listener: {error}", file=sys.stderr)
            await asyncio.sleep(0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running fleet with open registration and no rate limits; default: start one")
    parser.add_argument("--config", type=Path, help="its configuration, for `skep status` (CPU needs it)")
    parser.add_argument("--senders", type=int, default=16, help="users who send at the same time (16)")
    parser.add_argument("--rooms", type=int, default=200, help="rooms that they send to in turn (200)")
    parser.add_argument("--seconds", type=float, default=20, help="measured time (20)")
    parser.add_argument("--message-bytes", type=int, default=200, help="length of each message's text (200)")
    parser.add_argument("--listeners", type=int, default=0, help="users in all rooms who long-poll /sync (0)")
    parser.add_argument("--warm-up", type=float, default=5, help="seconds of load before measuring (5)")
    parser.add_argument("--room-version", default="12", help="version of the rooms (12)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON there too (-: print it)")
    arguments = vars(parser.parse_args())
    url, config, output = (arguments.pop(name) for name in ("url", "config", "json"))
    parameters = Parameters(**arguments)
    if url:
        result = uvloop.run(run(Target(url, config), parameters))
    else:
        with own_fleet() as target:
            result = uvloop.run(run(target, parameters))
    if output == Path("-"):
        print(result.as_json().decode())
    else:
        print(result.as_text())
        if output:
            output.write_bytes(result.as_json())
    return 1 if result.errors else 0


if __name__ == "__main__":
    sys.exit(main())
