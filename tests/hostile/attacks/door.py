"""Attacks at the door: bodies that do not end, requests without a token, and forged addresses."""

import asyncio

from tests.hostile.enemy import CLIENT, Enemy, at_once, attack

#: More than haproxy holds back, so that a worker gets the request before its body is whole.
_FIRST = bytes(40_000)


def _head(method: str, path: str, *fields: str) -> bytes:
    return "\r\n".join((f"{method} {CLIENT}{path} HTTP/1.1", "host: x", *fields)).encode() + b"\r\n\r\n"


async def _drip(enemy: Enemy, heads: list[bytes], first: bytes) -> None:
    async with enemy.sockets(len(heads), addresses=20) as sockets:
        for socket, head in zip(sockets, heads, strict=False):
            socket.write(head + first)
        for _ in range(100):
            await asyncio.sleep(0.5)
            for socket in sockets:
                socket.write(b" ")


@attack
async def large_bodies_that_drip(enemy: Enemy) -> None:
    """Places at the persisters and at client_api: 300 bodies with valid tokens, of which a byte comes now and then."""
    paths = (("POST", "/createRoom"), ("PUT", f"/user/{enemy.accounts[0].user_id}/account_data/drip"))
    heads = [
        _head(*paths[n % 2], f"authorization: Bearer {enemy.accounts[n % 4].token}", "content-length: 900000")
        for n in range(300)
    ]
    await _drip(enemy, heads, _FIRST)


@attack
async def large_bodies_without_a_token(enemy: Enemy) -> None:
    """The same with no token or a wrong one, by length and by chunks."""
    fields = ("content-length: 900000", "transfer-encoding: chunked")
    heads = [
        _head("POST", ("/register", "/login", "/createRoom")[n % 3], fields[n % 2], f"authorization: Bearer no{n}")
        for n in range(300)
    ]
    await _drip(enemy, heads, b"ffffff\r\n" + _FIRST)


@attack
async def unknown_tokens(enemy: Enemy) -> None:
    """The database: a look-up for each of many tokens that do not exist."""
    connections = [enemy.connection(None, source=enemy.address(n)) for n in range(40)]

    async def guess(number: int) -> None:
        connection = connections[number]
        try:
            for _ in range(25):
                path = f"{CLIENT}/account/whoami?access_token=skp_{enemy.unique() % 1024:03x}_{number}"
                status, _ = await connection.raw_request("GET", path, b"")
                enemy.statuses[status] += 1
        finally:
            connection.close()

    await at_once([guess(number) for number in range(40)])


@attack
async def open_endpoints_as_fast_as_possible(enemy: Enemy) -> None:
    """Everything that answers without a token, from a few addresses."""
    user = enemy.accounts[0].user_id
    calls = [
        ("GET", "/login", None),
        ("GET", f"/profile/{user}", None),
        ("GET", "/directory/room/%23nowhere:localhost", None),
        ("POST", "/refresh", {"refresh_token": "x" * 5_000}),
        ("GET", "/register/available?username=somebody", None),
        ("GET", "/publicRooms?limit=1000", None),
        ("POST", "/account/deactivate", {"auth": None, "x": "x" * 10_000}),
    ]
    await at_once([enemy.request(*calls[n % 7], account=None, source=enemy.address(n % 8)) for n in range(210)])


@attack
async def unfinished_registrations(enemy: Enemy) -> None:
    """Password hashes and stored requests for registrations that never come to an end."""
    body = {"password": "a password that costs 50 ms", "device_id": "D" * 3_000}
    await at_once(
        [
            enemy.request(
                "POST",
                "/register",
                {"username": f"unfinished-{enemy.unique()}", **body},
                account=None,
                source=enemy.address(enemy.unique() % 500),
            )
            for n in range(60)
        ]
    )


@attack
async def forged_addresses(enemy: Enemy) -> None:
    """Log-ins with another X-Forwarded-For each, to get round the limit by address."""
    body = b'{"type":"m.login.password","user":"nobody","password":"wrong"}'
    async with enemy.sockets(60) as sockets:
        for number, socket in enumerate(sockets):
            fields = (f"x-forwarded-for: 10.{number}.0.1", f"forwarded: for=10.{number}.0.2")
            socket.write(_head("POST", "/login", *fields, f"content-length: {len(body)}") + body)
        await asyncio.sleep(0.5)


@attack
async def requests_that_wait_for_ever(enemy: Enemy) -> None:
    """Every place of a pool: six hundred long polls of one account."""
    path = "/sync?timeout=60000&since=s0"
    head = _head("GET", path, f"authorization: Bearer {enemy.accounts[1].token}")
    async with enemy.sockets(600, addresses=3) as sockets:
        for socket in sockets:
            socket.write(head)
        await asyncio.sleep(3)


@attack
async def requests_that_are_not_http(enemy: Enemy) -> None:
    """haproxy's parser: lines, lengths and codings that no client sends."""
    raw = (
        b"GET /\xff HTTP/1.1\r\nhost: x\r\n\r\n",
        b"POST / HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        b"GET /" + b"y" * 40_000 + b" HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(1000),
        b"POST /_matrix/client/v3/login HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    )
    async with enemy.sockets(120, addresses=30) as sockets:
        for number, socket in enumerate(sockets):
            socket.write(raw[number % len(raw)])
        await asyncio.sleep(0.3)
