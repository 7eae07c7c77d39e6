"""Scenario `herd`: many clients resync one huge room at the same time, as they do after the end of a synchrotron.

    python -m load.herd                        500 clients, and 5,000 other members of their room
    python -m load.herd --clients 100 --remote-members 2000 --compare COMMIT

Cases: one client alone, and all at once; each cold (the synchrotrons have just started), with all members and with lazy
loading. The figure is the cost of one client. It should be far lower when all sync at once.
"""

import argparse
import asyncio
import sys

from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.remote_members import join_remote_members
from load.harness.report import Result
from load.harness.restarts import restart
from load.harness.scenario import (
    FULL_AND_LAZY,
    Bench,
    Tally,
    at_once,
    join,
    main,
    message,
    new_room,
    new_users,
    results,
    send_path,
)

_MESSAGES = 30


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "herd", "sync")
    people = await new_users(target, "herd", arguments.clients)
    room_id = await new_room(people[0])
    await join_remote_members(target, room_id, arguments.remote_members)
    await at_once((join(user, room_id) for user in people[1:]), 8)
    for number in range(_MESSAGES):
        await people[0].connection.raw_request("PUT", send_path(room_id, f"{number}"), message())
    print("the room is filled", file=sys.stderr, flush=True)
    tallies: list[Tally] = []
    for kind, query in FULL_AND_LAZY.items():
        for name, clients in (("one", people[:1]), (str(len(people)), people)):
            await restart(target, "synchrotron")
            bench.find_processes(target)
            shape = {"clients": len(clients), "remote_members": arguments.remote_members}
            async with bench.case(f"{name}, {kind}", shape) as tally:
                await asyncio.gather(*(_sync(user, query, tally) for user in clients))
            tallies.append(tally)
    for user in people:
        user.connection.close()
    return results(*tallies)


async def _sync(user: User, query: str, tally: Tally) -> None:
    answer = await tally.timed(user.connection.raw_request("GET", f"/_matrix/client/v3/sync{query}", b""))
    if not answer.endswith(b"}"):
        tally.errors["incomplete answer"] += 1


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--clients", type=int, default=500, help="clients that resync (500)")
    parser.add_argument("--remote-members", type=int, default=5000, help="members of other servers (5000)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
