"""Scenario `sliding_sync`: windows of 20 rooms, and messages to members who long-poll sliding sync.

    python -m load.sliding_sync                                a user of 100 rooms; 50 listeners
    python -m load.sliding_sync --rooms 1000 --compare COMMIT

Cases: a window on a new connection with 1 and with 20 events of each room, in both forms; the same window again, with
nothing new; a range that grows by 20; and deliveries, with a window of 20 for each listener.
"""

import argparse
import asyncio
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson

from load.fanout import SYNC_TIMEOUT_MS, Audience
from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.scenario import Bench, Tally, at_once, join, main, message, new_room, new_users, results, send_path
from shared.core.identifiers import RoomId

_MERGED = "/_matrix/client/v4/sync"
_DEPLOYED = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_WINDOW = 20
#: The state that a room list shows.
_STATE = ["m.room.create", "m.room.encryption", "m.room.name", "m.room.avatar", "m.room.tombstone"]
_EXTENSIONS = {name: {"enabled": True} for name in ("account_data", "receipts", "typing", "e2ee", "to_device")}


def _merged(limit: int, last: int = _WINDOW - 1, **fields: Any) -> bytes:
    state = {"include": [{"type": type_, "state_key": ""} for type_ in _STATE], "lazy_members": True}
    wanted = {"timeline_limit": limit, "required_state": state, "range": [0, last]}
    return orjson.dumps({"lists": {"all": wanted}, "extensions": _EXTENSIONS, **fields})


def _deployed(limit: int) -> bytes:
    state = [*([type_, ""] for type_ in _STATE), ["m.room.member", "$LAZY"], ["m.room.member", "$ME"]]
    wanted = {"timeline_limit": limit, "required_state": state, "ranges": [[0, _WINDOW - 1]]}
    return orjson.dumps({"lists": {"all": wanted}, "extensions": _EXTENSIONS})


class SlidingAudience(Audience):
    """Members who long-poll with a window."""

    token_field = "pos"  # noqa: S105

    async def first_token(self, user: User) -> str:
        _, answer = await user.connection.raw_request("POST", _MERGED, _merged(20))
        return str(orjson.loads(answer)["pos"])

    async def poll(self, user: User, token: str) -> tuple[int, bytes]:
        body = _merged(20, pos=token, timeout=SYNC_TIMEOUT_MS)
        return await user.connection.raw_request("POST", _MERGED, body)


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "sliding_sync", "window")
    users = await _filled(target, arguments)
    user = users[0]
    shape = {"rooms": arguments.rooms, "members": arguments.members}
    tallies = []
    for name, path, body in (
        ("merged, 1 event", _MERGED, _merged(1)),
        ("merged, 20 events", _MERGED, _merged(20)),
        ("deployed, 1 event", _DEPLOYED, _deployed(1)),
        ("deployed, 20 events", _DEPLOYED, _deployed(20)),
    ):
        await user.connection.raw_request("POST", path, body)
        async with bench.case(f"new window, {name}", shape) as tally:
            for _ in range(arguments.windows):
                _check_rooms(tally, await tally.timed(user.connection.raw_request("POST", path, body)), _WINDOW)
        tallies.append(tally)
    tallies.append(await _again(bench, user, arguments, shape))
    tallies.append(await _growing(bench, user, arguments, shape))
    tallies.append(await _deliveries(bench, users, target, arguments))
    for one in users:
        one.connection.close()
    return results(*tallies)


async def _filled(target: Target, arguments: argparse.Namespace) -> list[User]:
    """Create the rooms, with all members in all rooms, and their messages."""
    users = await new_users(target, "sliding", arguments.members)
    rooms = [await new_room(users[0]) for _ in range(arguments.rooms)]
    await at_once((_join_all(one, rooms) for one in users[1:]), 4)
    for number, room_id in itertools.product(range(arguments.room_messages), rooms):
        await users[number % len(users)].connection.raw_request("PUT", send_path(room_id, f"{number}"), message())
    print(f"{len(rooms)} rooms are filled", file=sys.stderr, flush=True)
    return users


async def _join_all(user: User, rooms: Sequence[RoomId]) -> None:
    for room_id in rooms:
        await join(user, room_id)


async def _again(bench: Bench, user: User, arguments: argparse.Namespace, shape: dict[str, Any]) -> Tally:
    _, answer = await user.connection.raw_request("POST", _MERGED, _merged(20))
    async with bench.case("known window", shape) as tally:
        for _ in range(arguments.windows):
            body = _merged(20, pos=orjson.loads(answer)["pos"])
            answer = await tally.timed(user.connection.raw_request("POST", _MERGED, body))
            _check_rooms(tally, answer, 0)
    return tally


async def _growing(bench: Bench, user: User, arguments: argparse.Namespace, shape: dict[str, Any]) -> Tally:
    async with bench.case("20 more rooms", shape) as tally:
        for number in range(max(arguments.windows * _WINDOW // arguments.rooms, 1)):
            conn_id = f"growing {number}"
            _, answer = await user.connection.raw_request("POST", _MERGED, _merged(1, conn_id=conn_id))
            for last in range(2 * _WINDOW - 1, arguments.rooms, _WINDOW):
                body = _merged(1, last, conn_id=conn_id, pos=orjson.loads(answer)["pos"])
                answer = await tally.timed(user.connection.raw_request("POST", _MERGED, body))
                _check_rooms(tally, answer, _WINDOW)
    return tally


async def _deliveries(bench: Bench, users: Sequence[User], target: Target, arguments: argparse.Namespace) -> Tally:
    """Measure deliveries to listeners who are in further rooms too, so that their lists are long."""
    [sender, *listeners] = await new_users(target, "listener", arguments.listeners + 1)
    room_id = await new_room(sender)
    others = [await new_room(sender) for _ in range(_WINDOW)]
    await at_once((_join_all(user, [*others, room_id]) for user in listeners), 4)
    audience = SlidingAudience(listeners, Counter())
    await audience.start()
    await asyncio.sleep(1.0)
    for number in range(5):
        await audience.deliver(sender, send_path(room_id, f"warm{number}"), message())
    shape = {"listeners": arguments.listeners, "messages": arguments.messages}
    async with bench.case("deliveries", shape, "delivery") as tally:
        audience.latencies_s = tally.latencies_s
        for number in range(arguments.messages):
            await audience.deliver(sender, send_path(room_id, f"m{number}"), message())
    tally.errors.update(audience.errors)
    audience.stop()
    sender.connection.close()
    return tally


def _check_rooms(tally: Tally, answer: bytes, rooms: int) -> None:
    """Record an error unless the answer has this number of rooms."""
    if answer.count(b'"bump_stamp":') != rooms:
        tally.errors["wrong number of rooms"] += 1


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rooms", type=int, default=100, help="rooms of the user (100)")
    parser.add_argument("--members", type=int, default=10, help="members of all rooms (10)")
    parser.add_argument("--room-messages", type=int, default=20, help="messages in each room (20)")
    parser.add_argument("--windows", type=int, default=100, help="requests of each case (100)")
    parser.add_argument("--listeners", type=int, default=50, help="members who long-poll (50)")
    parser.add_argument("--messages", type=int, default=60, help="messages to the listeners (60)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
