"""Scenario `initial_sync`: a user of many rooms syncs without a token; and what others feel while many do.

    python -m load.initial_sync                                  100 rooms x 50 members x 20 messages
    python -m load.initial_sync --rooms 20 --compare COMMIT

Cases: cold (the synchrotrons have just begun and know no room) and warm, each with all members and with lazy loading;
then messages to a few listeners of a small room: alone, and beside initial syncs of all members at the same time.
"""

import argparse
import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Sequence

from load.clients import User
from load.fanout import Audience
from load.fleet import Target
from load.report import Result
from load.restarts import restart
from load.scenario import (
    FULL_AND_LAZY,
    Bench,
    Tally,
    at_once,
    join,
    main,
    merged,
    message,
    new_people,
    new_room,
    results,
    send_path,
)
from shared.core.identifiers import RoomId

_LISTENERS = 5
_PACE_S = 0.03


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "initial_sync", "sync")
    people = await _filled(target, arguments)
    shape = {name: getattr(arguments, name) for name in ("rooms", "members", "messages")}
    cases: list[Result] = []
    for kind, query in FULL_AND_LAZY.items():
        cold = []
        for _ in range(arguments.colds):
            await restart(target, "synchrotron")
            bench.look(target)
            async with bench.case(f"cold, {kind}", shape) as tally:
                await _sync(people[0], query, tally)
            cold.append(tally)
        if cold:
            cases.append(merged(results(*cold)))
        for user in people[:2]:
            await _sync(user, query, Tally())
        async with bench.case(f"warm, {kind}", shape) as tally:
            for number in range(arguments.warms):
                await _sync(people[number % len(people)], query, tally)
        cases += results(tally)
    cases += await _beside(bench, target, people, arguments)
    for user in people:
        user.connection.close()
    return cases


async def _filled(target: Target, arguments: argparse.Namespace) -> list[User]:
    """Make the members, who are all in all the rooms, and the rooms' messages."""
    people = await new_people(target, "initial", arguments.members)

    async def found(number: int, user: User) -> list[RoomId]:
        return [await new_room(user) for _ in range(number, arguments.rooms, len(people))]

    founded = await at_once(found(number, user) for number, user in enumerate(people))
    rooms = [room_id for own in founded for room_id in own]
    founders = {room_id: number for number, own in enumerate(founded) for room_id in own}

    async def live(number: int, user: User) -> None:
        for room_id in rooms:
            if founders[room_id] != number:
                await join(user, room_id)

    await at_once(live(number, user) for number, user in enumerate(people))

    async def talk(number: int, user: User) -> None:
        for said, (place, room_id) in enumerate(itertools.product(range(arguments.messages), rooms)):
            if (place + said) % len(people) == number:
                await user.connection.raw_request("PUT", send_path(room_id, f"{place}-{said}"), message())

    await at_once(talk(number, user) for number, user in enumerate(people))
    print(f"{len(rooms)} rooms are filled", file=sys.stderr, flush=True)
    return people


async def _sync(user: User, query: str, tally: Tally) -> None:
    answer = await tally.timed(user.connection.raw_request("GET", f"/_matrix/client/v3/sync{query}", b""))
    if not answer.endswith(b"}"):
        tally.errors["half an answer"] += 1


async def _beside(
    bench: Bench, target: Target, people: Sequence[User], arguments: argparse.Namespace
) -> Sequence[Result]:
    """Measure deliveries, alone and while everybody syncs from nothing, again and again."""
    [sender, *listeners] = await new_people(target, "beside", _LISTENERS + 1)
    room_id = await new_room(sender)
    for user in listeners:
        await join(user, room_id)
    audience = Audience(listeners, Counter())
    await audience.take_seats()
    tallies = []
    for name, crowd in (("alone", []), (f"beside {arguments.crowd}", people)):
        async with bench.case(f"deliveries {name}", {"crowd": len(crowd)}, "delivery") as tally:
            audience.latencies_s = tally.latencies_s
            tasks = [
                asyncio.create_task(
                    _sync(crowd[n % len(crowd)].on_another_connection(), FULL_AND_LAZY["full"], Tally())
                )
                for n in range(arguments.crowd if crowd else 0)
            ]
            said = 0
            while said < arguments.beside or not all(task.done() for task in tasks):
                await audience.hear(sender, send_path(room_id, f"{name.replace(' ', '')}{said}"), message())
                await asyncio.sleep(_PACE_S)
                said += 1
            await asyncio.gather(*tasks)
        tally.errors.update(audience.errors)
        tallies.append(tally)
    audience.leave()
    return results(*tallies)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=100, help="rooms of each member (100)")
    parser.add_argument("--members", type=int, default=50, help="members, who are in all the rooms (50)")
    parser.add_argument("--messages", type=int, default=20, help="messages of each room (20)")
    parser.add_argument("--colds", type=int, default=3, help="syncs from nothing, each after a new start; 0: none (3)")
    parser.add_argument("--warms", type=int, default=20, help="syncs of what is in memory (20)")
    parser.add_argument("--crowd", type=int, default=50, help="initial syncs at once beside the deliveries (50)")
    parser.add_argument("--beside", type=int, default=100, help="messages delivered alone, and at least beside (100)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
