"""Attacks on what users share: the event loop, long polls, large answers, searches, walks through spaces, hashes."""

import asyncio
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from tests.hostile.enemy import Enemy, at_once, attack

_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"
_UNREAD_S = 2.0


def _query(**parameters: Any) -> str:
    return "&".join(
        f"{name}={quote(value if isinstance(value, str) else orjson.dumps(value).decode(), safe='')}"
        for name, value in parameters.items()
    )


def _stars(number: int, stars: int) -> Mapping[str, Any]:
    return {"types": [f"{'*a' * stars}{n}" for n in range(number)], "not_types": ["*" * stars]}


@attack
async def filters_with_as_many_stars_as_allowed(enemy: Enemy) -> None:
    """The matching of event types, in /sync, /messages and /search, with the largest filters and with larger ones."""
    room = quote(enemy.rooms[0], safe="")
    calls = []
    for number, stars in ((10, 20), (200, 1), (1000, 500)):
        event_filter = _stars(number, stars)
        whole = {"room": {"timeline": event_filter, "state": event_filter, "account_data": event_filter}}
        own = quote(enemy.accounts[0].user_id, safe="")
        calls.append(enemy.request("POST", f"/user/{own}/filter", whole))
        search = {"search_categories": {"room_events": {"search_term": "hello", "filter": event_filter}}}
        calls += [enemy.request("POST", "/search", search, account=n) for n in range(4)]
        if number <= 200:
            calls.append(enemy.request("GET", "/sync?" + _query(filter=whole, timeout="0")))
            calls.append(enemy.request("GET", f"/rooms/{room}/messages?dir=b&limit=100&" + _query(filter=event_filter)))
    await at_once(calls)


@attack
async def searches_at_once(enemy: Enemy) -> None:
    """The cost of searches: sixty at once, with context, state and groups."""
    events = {
        "search_term": "the and hello message number",
        "order_by": "recent",
        "event_context": {"before_limit": 10, "after_limit": 10, "include_profile": True},
        "include_state": True,
        "groupings": {"group_by": [{"key": "room_id"}, {"key": "sender"}]},
    }
    body = {"search_categories": {"room_events": events}}
    await at_once([enemy.request("POST", "/search", body, account=n % 4) for n in range(60)])


@attack
async def polls_by_the_hundred(enemy: Enemy) -> None:
    """The places of long polls: four hundred of one account, from many addresses."""
    synced = await enemy.ask("GET", "/sync?timeout=0")
    path = "/sync?" + _query(since=synced["next_batch"], timeout="30000")
    await at_once([enemy.request("GET", path, source=enemy.address(n % 50)) for n in range(400)])


@attack
async def initial_syncs_that_nobody_reads(enemy: Enemy) -> None:
    """The places of long answers: forty initial syncs whose clients take nothing."""
    await _leave_unread(enemy, [("GET", "/_matrix/client/v3/sync?full_state=true", b"")] * 40)


@attack
async def large_answers_that_nobody_reads(enemy: Enemy) -> None:
    """Memory for answers that are ready: pages of history, states and members whose clients take nothing."""
    room = "/_matrix/client/v3/rooms/" + quote(enemy.rooms[0], safe="")
    paths = (f"{room}/messages?dir=b&limit=100", f"{room}/state", f"{room}/members")
    await _leave_unread(enemy, [("GET", paths[n % 3], b"") for n in range(90)])


async def _leave_unread(enemy: Enemy, requests: list[tuple[str, str, bytes]]) -> None:
    async with enemy.sockets(len(requests), addresses=20) as writers:
        for writer, (method, path, body) in zip(writers, requests, strict=False):
            writer.transport.pause_reading()  # type: ignore[attr-defined]  # a transport of a socket reads
            head = f"{method} {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
            writer.write(f"{head}authorization: Bearer {enemy.accounts[0].token}\r\n\r\n".encode() + body)
        await asyncio.sleep(_UNREAD_S)


@attack
async def reads_that_nobody_waits_for(enemy: Enemy) -> None:
    """Work that goes on without its client: reads of all kinds whose connections end after some milliseconds."""
    room = quote(enemy.rooms[0], safe="")
    paths = ("/sync?timeout=0", f"/rooms/{room}/messages?dir=b&limit=100", f"/rooms/{room}/members")

    async def read_and_go(number: int) -> None:
        try:
            async with asyncio.timeout(0.002 * (number % 20)):
                await enemy.request("GET", paths[number % 3], account=number % 4, source=enemy.address(number % 20))
        except TimeoutError:
            pass

    await at_once([read_and_go(number) for number in range(100)])


@attack
async def sliding_lists_with_filters_of_their_own(enemy: Enemy) -> None:
    """A list is built from all rooms: twenty and a hundred of them, with a large `m.direct` and many spaces."""
    own = quote(enemy.accounts[1].user_id, safe="")
    direct = {f"@user{n}:example.org": [enemy.rooms[0], f"!{n}:example.org"] for n in range(5_000)}
    await enemy.request("PUT", f"/user/{own}/account_data/m.direct", direct, account=1)

    def lists(number: int) -> Mapping[str, Any]:
        return {
            f"l{n}": {
                "ranges": [[0, 100]],
                "timeline_limit": 20,
                "required_state": [["*", "*"]],
                "filters": {
                    "is_dm": n % 2 == 0,
                    "not_tags": [f"t{n}.{tag}" for tag in range(400)],
                    "room_name_like": f"é{n}",
                    "spaces": [f"!{n}.{space}:example.org" for space in range(400)],
                },
            }
            for n in range(number)
        }

    calls = [enemy.request("POST", _SLIDING, {"lists": lists(number)}, account=1) for number in (20, 20, 20, 100)]
    await at_once(calls)


@attack
async def walks_through_large_spaces(enemy: Enemy) -> None:
    """The cost of a hierarchy: a space of three hundred children with large events, walked forty times at once."""
    space = await enemy.ask("POST", "/createRoom", {"creation_content": {"type": "m.space"}}, account=2)
    room = quote(space["room_id"], safe="")
    children = [
        enemy.request(
            "PUT",
            f"/rooms/{room}/state/m.space.child/{quote(f'!{n}:example.org', safe='')}",
            {"via": ["x" * 200 for _ in range(100)]},
            account=2,
        )
        for n in range(100)
    ]
    await at_once(children)
    await at_once([enemy.request("GET", f"/_matrix/client/v1/rooms/{room}/hierarchy", account=2) for _ in range(40)])


@attack
async def bodies_of_very_many_values(enemy: Enemy) -> None:
    """The decoding of a megabyte of empty arrays, in every kind of body."""
    values = b'{"a":[' + b",".join([b"[]"] * 340_000) + b"]}"
    own = quote(enemy.accounts[3].user_id, safe="")
    room = quote(enemy.rooms[0], safe="")
    await at_once(
        [
            enemy.request("PUT", f"/user/{own}/account_data/org.x", values, account=3),
            enemy.request("POST", "/search", values, account=3),
            enemy.request("POST", "/createRoom", values, account=3),
            enemy.request("PUT", f"/rooms/{room}/send/m.room.message/h{enemy.unique()}", values, account=3),
            enemy.request("PUT", f"/sendToDevice/m.x/h{enemy.unique()}", values, account=3),
            enemy.request("POST", "/keys/query", values, account=3),
            enemy.request("POST", _SLIDING, values, account=3),
            enemy.request("POST", "/login", values, account=None),
        ]
    )


@attack
async def messages_of_very_many_values(enemy: Enemy) -> None:
    """The decoding of a room's history: messages of thousands of empty arrays, and everybody reads them."""
    for number in (18_000, 2_900):  # more than a body may have, and as many as it may
        content = {"msgtype": "m.text", "body": "x" * 3 * (18_000 - number), "a": [[]] * number}
        await at_once([enemy.send(enemy.rooms[0], content, account=n % 4) for n in range(20)])
    room = quote(enemy.rooms[0], safe="")
    path = f"/rooms/{room}/messages?dir=b&limit=100"
    await at_once([enemy.request("GET", path, account=n % 4) for n in range(20)])


@attack
async def passwords_from_one_address(enemy: Enemy) -> None:
    """The threads that hash passwords: a hundred wrong ones at once, of unknown users."""
    await at_once(
        [
            enemy.request(
                "POST",
                "/login",
                {
                    "type": "m.login.password",
                    "identifier": {"type": "m.id.user", "user": f"nobody{enemy.unique()}"},
                    "password": "wrong" * 100,
                },
                account=None,
                source=enemy.address(n % 5),
            )
            for n in range(100)
        ]
    )
