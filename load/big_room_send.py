"""Scenario `big_room_send`: the cost of a message in a room with many local members, compared with a small room.

    python -m load.big_room_send                               20,000 local members, and 5
    python -m load.big_room_send --members 5,2000 --messages 500

One user sends, each message after the answer to the previous one. No client syncs. The members' joins are generated
here and given to the room's persister in batches, as events of other servers are. The rooms take turns, so that a noisy
machine affects both in the same way.
"""

import argparse
import sys
import time
from dataclasses import dataclass

from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.room_owner import RoomOwner, read_room
from load.harness.scenario import Bench, Tally, counts, main, merged, message, new_room, new_users, results, send_path
from shared.core.identifiers import RoomId, UserId

_BATCH = 200  # as many as one call takes
_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class _Room:
    sender: User
    room_id: RoomId
    members: int


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    """Measure one case for each number of members, with all turns of that room together."""
    bench = Bench(target, "big_room_send", "send")
    rooms = [await _fill(target, bench, count, arguments.room_version) for count in arguments.members]
    tallies: dict[int, list[Tally]] = {room.members: [] for room in rooms}
    for room in rooms:
        await _send(room, "warm", _WARM_UP, Tally())
    for turn in range(arguments.turns):
        for room in rooms:
            parameters = {"members": room.members, "messages": arguments.messages, "turns": arguments.turns}
            async with bench.case(f"{room.members} members", parameters) as tally:
                await _send(room, f"t{turn}-", arguments.messages, tally)
            tallies[room.members].append(tally)
    for room in rooms:
        room.sender.connection.close()
    return [merged(results(*turns)) for turns in tallies.values()]


async def _send(room: _Room, prefix: str, count: int, tally: Tally) -> None:
    for number in range(count):
        path = send_path(room.room_id, f"{prefix}{number}")
        await tally.timed(room.sender.connection.raw_request("PUT", path, message()))


async def _fill(target: Target, bench: Bench, count: int, room_version: str) -> _Room:
    """Create a room of a local user, and let other local users join until there are `count` members."""
    [sender] = await new_users(target, "big", 1)
    room_id = await new_room(sender, {"preset": "public_chat", "room_version": room_version})
    server_name = sender.user_id.partition(":")[2]
    assert bench.database is not None, "a fleet on this machine"
    room = await read_room(bench.database, room_id)
    owner = RoomOwner(target, room_id)
    started_s = time.perf_counter()
    for first in range(1, count, _BATCH):
        events = []
        for number in range(first, min(first + _BATCH, count)):
            user_id = UserId(f"@member{number}:{server_name}")
            event = room.make(user_id, "m.room.member", {"membership": "join"}, user_id, len(room.line) - 1)
            room.append(event)
            events.append(event)
        outcomes = await owner.receive(events)
        assert outcomes.keys() == {"accepted"}, outcomes
    owner.close()
    print(f"{count} members in {time.perf_counter() - started_s:.1f} s", file=sys.stderr, flush=True)
    return _Room(sender, room_id, count)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=counts, default=[5, 20_000], help="one room for each number (5,20000)")
    parser.add_argument("--messages", type=int, default=300, help="messages in each turn (300)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each room (5)")
    parser.add_argument("--room-version", default="12", help="the version of the rooms (12)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
