"""Scenario `big_room_send`: what a message costs in a room with many members of ours, beside the same in a small room.

    python -m load.big_room_send                               20,000 local members, and 5
    python -m load.big_room_send --members 5,2000 --messages 500

One user sends, each message after the answer to the one before; nobody listens. The members' join events are made here
and given to the room's persister in batches, which stores them as it stores all that comes from elsewhere. The rooms
take turns, so that a noisy machine is as unfair to one as to the other.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from urllib.parse import quote

import asyncpg
import orjson

from load.clients import Connection, User
from load.fleet import Target
from load.made_room import MadeRoom
from load.report import Result
from load.scenario import Bench, Tally, main, merged, message, new_people, new_room, results, send_path
from shared.config.load import load_config
from shared.core.events import parse_event
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.core.slots import slot_of

_BATCH = 200  # as many as one call takes
_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class _Room:
    sender: User
    room_id: RoomId
    members: int


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    """One case for each number of members: all turns of that room together."""
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
    """Make a room of a user of ours, and let so many users of ours join: the sender is one of them."""
    [sender] = await new_people(target, "big", 1)
    room_id = await new_room(sender, {"preset": "public_chat", "room_version": room_version})
    server_name = sender.user_id.partition(":")[2]
    assert bench.database is not None and target.config is not None, "a fleet on this machine"
    database = await asyncpg.connect(bench.database)
    rows = await database.fetch(
        "SELECT e.json FROM events e JOIN rooms USING (room_nid) WHERE room_id = $1 ORDER BY ordinal", room_id
    )
    await database.close()
    version = get_room_version(room_version)
    made = MadeRoom(version, [parse_event(version, row[0]) for row in rows])
    connection = _persister(target, room_id)
    path = f"/_skep/rooms/{quote(room_id, safe='')}/receive"
    started_s = time.perf_counter()
    for first in range(1, count, _BATCH):
        pdus = []
        for number in range(first, min(first + _BATCH, count)):
            user_id = UserId(f"@member{number}:{server_name}")
            event = made.make(user_id, "m.room.member", {"membership": "join"}, user_id, len(made.line) - 1)
            made.take(event)
            pdus.append({"pdu": orjson.Fragment(event.encoded)})
        answer = await connection.request("POST", path, {"pdus": pdus})
        outcomes = {result["outcome"] for result in answer["results"].values()}
        assert outcomes == {"accepted"}, outcomes
    connection.close()
    print(f"{count} members in {time.perf_counter() - started_s:.1f} s", file=sys.stderr, flush=True)
    return _Room(sender, room_id, count)


def _persister(target: Target, room_id: RoomId) -> Connection:
    """Return a connection to the room's owner, as another worker has it."""
    status, slot = target.status(), slot_of(room_id)
    name = next(each["owner"] for each in status["slots"]["rooms"] if each["first"] <= slot <= each["last"])
    address = next(each["address"] for each in status["processes"] if each["name"] == name)
    host, _, port = address.rpartition(":")
    assert target.config is not None
    return Connection(host, int(port), load_config(target.config).secrets.internal_secret.reveal())


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--members", type=_counts, default=[5, 20_000], help="one room for each number (5,20000)")
    parser.add_argument("--messages", type=int, default=300, help="messages in each turn (300)")
    parser.add_argument("--turns", type=int, default=5, help="turns of each room (5)")
    parser.add_argument("--room-version", default="12", help="version of the rooms (12)")


def _counts(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
