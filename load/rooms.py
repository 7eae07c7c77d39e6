"""Scenario `rooms`: the cost of creating a room, an invite, a join, and a page of 100 /messages.

    python -m load.rooms
    python -m load.rooms --count 100 --compare COMMIT

Requests run one after another, so group commit does not make them cheaper. Each invite and join is the first one in a
small room.
"""

import argparse
import sys
from collections.abc import Iterable
from urllib.parse import quote

import orjson

from load.harness.clients import User
from load.harness.fleet import Target
from load.harness.report import Result
from load.harness.scenario import Bench, Tally, main, message, new_room, new_users, results, send_path
from shared.core.identifiers import RoomId

_V3 = "/_matrix/client/v3"
_PAGE = 100


async def run(target: Target, arguments: argparse.Namespace) -> list[Result]:
    bench = Bench(target, "rooms", "request")
    creator, invited, joining, reader = await new_users(target, "rooms", 4)
    busy = await new_room(creator)
    for number in range(_PAGE + 50):
        await creator.connection.raw_request("PUT", send_path(busy, f"{number}"), message())
    await reader.request("POST", f"{_V3}/rooms/{quote(busy, safe='')}/join", {})
    for user in (creator, creator):  # prepares statements
        await new_room(user)
    count = arguments.count
    rooms: list[RoomId] = []
    async with bench.case("createRoom", {"count": count}) as create:
        for _ in range(count):
            body = orjson.dumps({"preset": "public_chat", "name": "A room"})
            answer = await create.timed(creator.connection.raw_request("POST", f"{_V3}/createRoom", body))
            rooms.append(orjson.loads(answer)["room_id"])
    paths = [f"{_V3}/rooms/{quote(room_id, safe='')}" for room_id in rooms]
    body = orjson.dumps({"user_id": invited.user_id})
    async with bench.case("invite", {"count": count}) as invite:
        await _post(creator, (f"{path}/invite" for path in paths), body, invite)
    async with bench.case("join", {"count": count}) as join:
        await _post(joining, (f"{path}/join" for path in paths), b"{}", join)
    page = f"{_V3}/rooms/{quote(busy, safe='')}/messages?dir=b&limit={_PAGE}"
    async with bench.case("messages", {"count": count, "limit": _PAGE}) as messages:
        for _ in range(count):
            answer = await messages.timed(reader.connection.raw_request("GET", page, b""))
            if answer.count(b'"event_id"') < _PAGE:
                messages.errors["short page"] += 1
    for user in (creator, invited, joining, reader):
        user.connection.close()
    return results(create, invite, join, messages)


async def _post(user: User, paths: Iterable[str], body: bytes, tally: Tally) -> None:
    for path in paths:
        await tally.timed(user.connection.raw_request("POST", path, body))


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--count", type=int, default=300, help="requests of each kind (300)")


if __name__ == "__main__":
    sys.exit(main(__doc__ or "", run, _arguments))
