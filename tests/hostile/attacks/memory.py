"""Attacks on memory and storage: much of what servers keep for a user, and what takes more memory than it looks."""

import asyncio
from typing import Any
from urllib.parse import quote

from tests.hostile.enemy import Enemy, at_once, attack

_SLIDING = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync"


def _own(enemy: Enemy, account: int, rest: str) -> str:
    return f"/user/{quote(enemy.accounts[account].user_id, safe='')}/{rest}"


@attack
async def hoards_account_data(enemy: Enemy) -> None:
    """The account data of a user, which is in memory wherever they sync: large entries, and a great many small ones."""
    calls = []
    for n in range(16):
        size = 900_000 if n % 2 else 10
        path = _own(enemy, n % 4, f"account_data/m.hoard{enemy.unique()}")
        calls.append(enemy.request("PUT", path, {"text": "x" * size}, account=n % 4))
    await at_once(calls)


@attack
async def hoards_filters(enemy: Enemy) -> None:
    """Filters whose parsed form is many times as large as their text, each used by a sync."""

    async def store_and_use(account: int) -> None:
        types = [f"{enemy.unique()}" + "*a" * 90 for _ in range(2)]
        section = {"types": types, "senders": [f"@{n}:x" for n in range(1000)]}
        rooms = dict.fromkeys(("timeline", "state", "ephemeral", "account_data"), section)
        path = _own(enemy, account, "filter")
        status, answer = await enemy.request("POST", path, {"room": rooms, "presence": section}, account=account)
        if status == 200:
            number = answer.partition(b'"filter_id":"')[2].partition(b'"')[0].decode()
            await enemy.request("GET", f"/sync?filter={number}&timeout=0", account=account)

    await at_once([store_and_use(n % 4) for n in range(8)])


@attack
async def fills_inboxes(enemy: Enemy) -> None:
    """The inboxes of devices: messages of 60 KB to all devices of all accounts, and to those of honest users."""
    content = {"*": {"text": "x" * 60_000}}
    messages = {account.user_id: content for account in enemy.accounts}
    path = "/sendToDevice/m.hoard/{}"
    calls = [
        enemy.request("PUT", path.format(f"h{enemy.unique()}-{id(enemy):x}"), {"messages": messages}, account=n % 4)
        for n in range(20)
    ]
    await at_once(calls)


@attack
async def invents_keys(enemy: Enemy) -> None:
    """The keys of a device: large ones, and those of invented algorithms, which each sync counts."""
    calls = []
    for n in range(12):
        large = {f"signed_curve25519:{enemy.unique()}": {"key": "k" * 1000, "x": "x" * 2500} for _ in range(200)}
        odd = {f"{enemy.unique()}{'a' * 200}:K": {"key": "k"} for _ in range(15)}
        body = {"one_time_keys": large} if n % 2 else {"fallback_keys": odd}
        calls.append(enemy.request("POST", "/keys/upload", body, account=n % 4))
    calls += [enemy.request("GET", "/sync?timeout=0", account=n) for n in range(4)]
    await at_once(calls)


@attack
async def shows_forged_tokens(enemy: Enemy) -> None:
    """Tokens of /sync that name a thousand writers, each another one: they are parsed, and kept."""

    async def show(account: int) -> None:
        number = enemy.unique()
        named = "".join(f".{writer}-{5_000_000 + number + writer}" for writer in range(1, 900))
        await enemy.request("GET", f"/sync?timeout=0&since=s1_e1000.{number}{named}", account=account)

    await at_once([show(n % 4) for n in range(40)])


@attack
async def waits_with_large_polls(enemy: Enemy) -> None:
    """Polls of sliding sync that wait with as much as a body may have, on ever new connections."""

    async def poll(account: int) -> None:
        elements = [[f"t{n}", f"{enemy.unique()}"] for n in range(70)]
        one = {"ranges": [[0, 10]], "timeline_limit": 1, "required_state": elements, "filters": {"not_tags": ["x"]}}
        body: dict[str, Any] = {"conn_id": f"c{enemy.unique()}", "lists": {f"l{n}": one for n in range(18)}}
        status, answer = await enemy.request("POST", f"{_SLIDING}?timeout=0", body, account=account)
        if status == 200:
            pos = answer.partition(b'"pos":"')[2].partition(b'"')[0].decode()
            await enemy.request("POST", f"{_SLIDING}?timeout=2000&pos={quote(pos, safe='')}", body, account=account)

    await at_once([poll(n % 4) for n in range(40)])


@attack
async def sets_dense_state(enemy: Enemy) -> None:
    """State events of empty lists, of which each takes twenty times its text in memory, under ever new keys."""
    created = await enemy.ask("POST", "/createRoom", {}, account=1)
    room = quote(created["room_id"], safe="")
    content: dict[str, list[list[int]]] = {"lists": [[] for _ in range(4_000)]}
    await at_once(
        [enemy.request("PUT", f"/rooms/{room}/state/m.hoard/k{enemy.unique()}", content, account=1) for _ in range(20)]
    )
    await enemy.request("GET", f"/rooms/{room}/state", account=1)


@attack
async def replaces_large_state(enemy: Enemy) -> None:
    """One large state event that is replaced again and again: each version has the one before it in memory."""
    room = quote((await enemy.ask("POST", "/createRoom", {}, account=2))["room_id"], safe="")
    for n in range(30):
        content = {"topic": f"{n}" + "t" * 60_000}
        status, _ = await enemy.request("PUT", f"/rooms/{room}/state/m.room.topic/", content, account=2)
        if status != 200:
            await asyncio.sleep(0.2)
        await enemy.request("GET", "/sync?timeout=0", account=2)


@attack
async def schedules_large_events(enemy: Enemy) -> None:
    """Delayed events of 60 KB, as many as may be scheduled."""
    room = quote(enemy.rooms[0], safe="")
    calls = []
    for n in range(40):
        path = f"/rooms/{room}/send/m.hoard/d{enemy.unique()}-{id(enemy):x}?org.matrix.msc4140.delay=3600000"
        calls.append(enemy.request("PUT", path, {"text": "x" * 60_000}, account=n % 4))
    await at_once(calls)
