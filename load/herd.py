"""Scenario `herd`: many clients resync one huge room at the same moment, as they do when a synchrotron has ended.

    python -m load.herd                        500 clients, a room of 5,000 members beside them
    python -m load.herd --clients 100 --strangers 2000 --compare COMMIT

Cases: one client alone, and all at once; each cold (the synchrotrons have just begun), with all members and with lazy
loading. The figure is the cost of one client: for all at once it should be far below that of one alone.
"""

import argparse
import asyncio
import sys

from load.clients import User
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
    message,
    new_people,
    new_room,
    results,
    send_path,
)
from load.strangers import let_strangers_join

_MESSAGES = 30


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "herd", "sync")
    people = await new_people(target, "herd", arguments.clients)
    room_id = await new_room(people[0])
    await let_strangers_join(target, room_id, arguments.strangers)
    await at_once((join(user, room_id) for user in people[1:]), 8)
    for number in range(_MESSAGES):
        await people[0].connection.raw_request("PUT", send_path(room_id, f"{number}"), message())
    print("the room is filled", file=sys.stderr, flush=True)
    tallies: list[Tally] = []
    for kind, query in FULL_AND_LAZY.items():
        for name, clients in (("one", people[:1]), (str(len(people)), people)):
            await restart(target, "synchrotron")
            bench.look(target)
            shape = {"clients": len(clients), "strangers": arguments.strangers}
            async with bench.case(f"{name}, {kind}", shape) as tally:
                await asyncio.gather(*(_sync(user, query, tally) for user in clients))
            tallies.append(tally)
    for user in people:
        user.connection.close()
    return results(*tallies)


async def _sync(user: User, query: str, tally: Tally) -> None:
    answer = await tally.timed(user.connection.raw_request("GET", f"/_matrix/client/v3/sync{query}", b""))
    if not answer.endswith(b"}"):
        tally.errors["half an answer"] += 1


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=500, help="clients that resync (500)")
    parser.add_argument("--strangers", type=int, default=5000, help="further members, of other servers (5000)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
