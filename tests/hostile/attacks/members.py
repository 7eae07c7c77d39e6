"""Attacks by members of a room, and by users of their own data."""

import asyncio
from urllib.parse import quote

from tests.hostile.enemy import Enemy, at_once, attack


@attack
async def reads_as_fast_as_possible(enemy: Enemy) -> None:
    """Every reader's limit: a room's history, members and state, by forty requests at once."""
    room = quote(enemy.rooms[0], safe="")
    paths = (f"/rooms/{room}/messages?dir=b&limit=100", f"/rooms/{room}/members", f"/rooms/{room}/state")
    await at_once([enemy.request("GET", paths[n % 3], account=n % 4) for n in range(40)])


@attack
async def sends_as_fast_as_possible(enemy: Enemy) -> None:
    """The limit on messages: two hundred large ones at once into a room of others."""
    content = {"msgtype": "m.text", "body": "x" * 60_000}
    await at_once([enemy.send(enemy.rooms[0], content, account=n % 4) for n in range(200)])


@attack
async def sets_state_as_fast_as_possible(enemy: Enemy) -> None:
    """The cost of refused state events, and of own member events with new content each."""
    room = quote(enemy.rooms[0], safe="")
    calls = [
        enemy.request("PUT", f"/rooms/{room}/state/m.room.topic/", {"topic": "t" * n}, account=n % 4) for n in range(30)
    ]
    for n in range(30):
        member = quote(enemy.accounts[n % 4].user_id, safe="")
        content = {"membership": "join", "displayname": f"enemy {enemy.unique()}"}
        calls.append(enemy.request("PUT", f"/rooms/{room}/state/m.room.member/{member}", content, account=n % 4))
    await at_once(calls)


@attack
async def changes_names_as_fast_as_possible(enemy: Enemy) -> None:
    """A change of a display name that writes into every room of the user."""
    await at_once(
        [
            enemy.request(
                "PUT",
                f"/profile/{quote(enemy.accounts[n % 4].user_id, safe='')}/displayname",
                {"displayname": f"enemy {enemy.unique()}"},
                account=n % 4,
            )
            for n in range(40)
        ]
    )


@attack
async def comes_and_goes(enemy: Enemy) -> None:
    """Joins and leaves of one room in turn, each of which every member's client is told."""
    room = quote(enemy.rooms[1], safe="")

    async def flap(account: int) -> None:
        for _ in range(5):
            await enemy.request("POST", f"/rooms/{room}/join", {}, account=account)
            await enemy.request("POST", f"/rooms/{room}/leave", {}, account=account)

    await at_once([flap(account) for account in (1, 2, 3)])


@attack
async def fleeting_signs(enemy: Enemy) -> None:
    """Typing notices, receipts and presence as fast as possible: what is told to all and stored nowhere."""
    room = quote(enemy.rooms[0], safe="")
    calls = []
    for n in range(80):
        user = quote(enemy.accounts[n % 4].user_id, safe="")
        typing, presence = {"typing": n % 8 < 4, "timeout": 30_000}, {"presence": ("online", "unavailable")[n // 4 % 2]}
        path, body = ((f"/rooms/{room}/typing/{user}", typing), (f"/presence/{user}/status", presence))[n // 4 % 2]
        calls.append(enemy.request("PUT", path, body, account=n % 4))
    await at_once(calls)


@attack
async def many_reactions(enemy: Enemy) -> None:
    """Thousands of relations of one event, and reads of them."""
    room = quote(enemy.rooms[0], safe="")
    sent = await enemy.ask(
        "PUT", f"/rooms/{room}/send/m.room.message/root-{enemy.unique()}", {"msgtype": "m.text", "body": "root"}
    )
    root = sent["event_id"]
    calls = []
    for n in range(120):
        content = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": f"k{enemy.unique()}"}}
        path = f"/rooms/{room}/send/m.reaction/r-{enemy.unique()}"
        calls.append(enemy.request("PUT", path, content, account=n % 4))
        if n % 4 == 0:
            related = f"/_matrix/client/v1/rooms/{room}/relations/{quote(root, safe='')}?limit=1000"
            calls.append(enemy.request("GET", related, account=n % 3))
    await at_once(calls)


@attack
async def polls_without_end(enemy: Enemy) -> None:
    """Every place for a long poll: a thousand of one account, on connections of their own."""
    since = (await enemy.ask("GET", "/sync?timeout=0"))["next_batch"]
    path = f"/sync?timeout=60000&since={quote(since)}"
    await at_once([enemy.request("GET", path, source=enemy.address(n % 40)) for n in range(1_000)])


@attack
async def first_syncs_without_end(enemy: Enemy) -> None:
    """The dearest answer that there is: a first sync of everything, forty times at once."""
    await at_once([enemy.request("GET", "/sync?full_state=true", account=n % 4) for n in range(40)])


@attack
async def first_syncs_that_nobody_reads(enemy: Enemy) -> None:
    """Large answers of which nobody reads a byte."""
    head = "GET /_matrix/client/v3/sync?full_state=true HTTP/1.1\r\nhost: x\r\nauthorization: Bearer "
    async with enemy.sockets(60) as sockets:
        for n, socket in enumerate(sockets):
            socket.transport.pause_reading()  # type: ignore[attr-defined]
            socket.write(f"{head}{enemy.accounts[n % 4].token}\r\n\r\n".encode())
        await asyncio.sleep(2)


@attack
async def many_devices(enemy: Enemy) -> None:
    """A new device with each log-in, with the right password."""
    account = enemy.accounts[3]
    user = {"type": "m.id.user", "user": account.user_id}
    body = {"type": "m.login.password", "identifier": user, "password": account.password}
    await at_once([enemy.request("POST", "/login", body, account=None) for _ in range(30)])


@attack
async def schedules_and_aliases(enemy: Enemy) -> None:
    """Rows that stay: delayed events, aliases, filters, tags."""
    room, user = quote(enemy.rooms[0], safe=""), quote(enemy.accounts[0].user_id, safe="")
    server = enemy.accounts[0].user_id.partition(":")[2]
    calls = []
    for _ in range(30):
        number = enemy.unique()
        delayed = f"/rooms/{room}/send/m.room.message/d-{number}?org.matrix.msc4140.delay=86000000"
        alias = quote(f"#hostile-{number}:{server}", safe="")
        calls.append(enemy.request("PUT", delayed, {"msgtype": "m.text", "body": "later"}))
        calls.append(enemy.request("PUT", f"/directory/room/{alias}", {"room_id": enemy.rooms[0]}))
        calls.append(enemy.request("POST", f"/user/{user}/filter", {"room": {"rooms": [f"!{number}:{server}"]}}))
        calls.append(enemy.request("PUT", f"/user/{user}/rooms/{room}/tags/u.{number}", {"order": 0.5}))
    await at_once(calls)


@attack
async def searches(enemy: Enemy) -> None:
    """Searches of messages and of users, twenty at once, for what is everywhere."""
    messages = {"search_categories": {"room_events": {"search_term": "honest words", "include_state": True}}}
    calls = []
    for n in range(20):
        calls.append(enemy.request("POST", "/search", messages, account=n % 4))
        calls.append(
            enemy.request("POST", "/user_directory/search", {"search_term": "honest", "limit": 1000}, account=n % 4)
        )
    await at_once(calls)
