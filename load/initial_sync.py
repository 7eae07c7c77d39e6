"""Scenario `initial_sync`: a user of many rooms syncs without a token, and the effect on other users while many do.

    python -m load.initial_sync                                  100 rooms x 50 members x 20 messages
    python -m load.initial_sync --rooms 20 --compare COMMIT

Cases: cold (the synchrotrons have just started) and warm, each with all members and with lazy loading. Then messages to
a few listeners of a small room: alone, and during initial syncs of all members.
"""

import argparse
import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Sequence

from load.fanout import Audience
from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.restarts import restart
from load.harness.scenario import (
    FULL_AND_LAZY,
    Bench,
    Tally,
    at_once,
    join,
    main,
    merged,
    message,
    new_room,
    new_users,
    results,
    send_path,
)
from shared.core.identifiers import RoomId

_LISTENERS = 5
_PACE_S = 0.03


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "initial_sync", "sync")
    users = await _filled(target, arguments)
    shape = {name: getattr(arguments, name) for name in ("rooms", "members", "messages")}
    cases: list[Result] = []
    for kind, query in FULL_AND_LAZY.items():
        cold = []
        for _ in range(arguments.cold):
            await restart(target, "synchrotron")
            bench.find_processes(target)
            async with bench.case(f"cold, {kind}", shape) as tally:
                await _sync(users[0], query, tally)
            cold.append(tally)
        if cold:
            cases.append(merged(results(*cold)))
        for user in users[:2]:
            await _sync(user, query, Tally())
        async with bench.case(f"warm, {kind}", shape) as tally:
            for number in range(arguments.warm):
                await _sync(users[number % len(users)], query, tally)
        cases += results(tally)
    cases += await _deliveries(bench, target, users, arguments)
    for user in users:
        user.connection.close()
    return cases


async def _filled(target: Target, arguments: argparse.Namespace) -> list[User]:
    """Create the rooms, with all members in all rooms, and their messages."""
    users = await new_users(target, "initial", arguments.members)

    async def create(number: int, user: User) -> list[RoomId]:
        return [await new_room(user) for _ in range(number, arguments.rooms, len(users))]

    created = await at_once(create(number, user) for number, user in enumerate(users))
    rooms = [room_id for own in created for room_id in own]
    creators = {room_id: number for number, own in enumerate(created) for room_id in own}

    async def join_others(number: int, user: User) -> None:
        for room_id in rooms:
            if creators[room_id] != number:
                await join(user, room_id)

    await at_once(join_others(number, user) for number, user in enumerate(users))

    async def send(number: int, user: User) -> None:
        for count, (turn, room_id) in enumerate(itertools.product(range(arguments.messages), rooms)):
            if (turn + count) % len(users) == number:
                await user.connection.raw_request("PUT", send_path(room_id, f"{turn}-{count}"), message())

    await at_once(send(number, user) for number, user in enumerate(users))
    print(f"{len(rooms)} rooms are filled", file=sys.stderr, flush=True)
    return users


async def _sync(user: User, query: str, tally: Tally) -> None:
    answer = await tally.timed(user.connection.raw_request("GET", f"/_matrix/client/v3/sync{query}", b""))
    if not answer.endswith(b"}"):
        tally.errors["incomplete answer"] += 1


async def _deliveries(
    bench: Bench, target: Target, users: Sequence[User], arguments: argparse.Namespace
) -> Sequence[Result]:
    """Measure deliveries, alone and during initial syncs."""
    [sender, *listeners] = await new_users(target, "listener", _LISTENERS + 1)
    room_id = await new_room(sender)
    for user in listeners:
        await join(user, room_id)
    audience = Audience(listeners, Counter())
    await audience.start()
    tallies = []
    for name, syncing in (("alone", []), (f"during {arguments.at_once} syncs", users)):
        shape = {"syncs": arguments.at_once if syncing else 0}
        async with bench.case(f"deliveries {name}", shape, "delivery") as tally:
            audience.latencies_s = tally.latencies_s
            tasks = [
                asyncio.create_task(
                    _sync(syncing[n % len(syncing)].on_another_connection(), FULL_AND_LAZY["full"], Tally())
                )
                for n in range(arguments.at_once if syncing else 0)
            ]
            sent = 0
            while sent < arguments.deliveries or not all(task.done() for task in tasks):
                await audience.deliver(sender, send_path(room_id, f"{name.replace(' ', '')}{sent}"), message())
                await asyncio.sleep(_PACE_S)
                sent += 1
            await asyncio.gather(*tasks)
        tally.errors.update(audience.errors)
        tallies.append(tally)
    audience.stop()
    return results(*tallies)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=100, help="rooms of each member (100)")
    parser.add_argument("--members", type=int, default=50, help="members of all rooms (50)")
    parser.add_argument("--messages", type=int, default=20, help="messages of each room (20)")
    parser.add_argument("--cold", type=int, default=3, help="cold syncs, each after a restart; 0: none (3)")
    parser.add_argument("--warm", type=int, default=20, help="warm syncs (20)")
    parser.add_argument("--at-once", type=int, default=50, help="initial syncs at once during deliveries (50)")
    parser.add_argument("--deliveries", type=int, default=100, help="measured messages, at least (100)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
