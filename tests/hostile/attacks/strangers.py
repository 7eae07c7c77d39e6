"""Attacks by strangers, who have no account: connections, requests that never end, guesses."""

import asyncio

from tests.hostile.enemy import CLIENT, Enemy, at_once, attack


@attack
async def bodies_that_drip(enemy: Enemy) -> None:
    """A place at a worker for each of 400 bodies of which a byte comes every half second."""
    head = f"POST {CLIENT}/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n"
    async with enemy.sockets(400, addresses=20) as sockets:
        for socket in sockets:
            socket.write(head.encode())
        while True:
            for socket in sockets:
                socket.write(b" ")
            await asyncio.sleep(0.5)


@attack
async def heads_that_drip(enemy: Enemy) -> None:
    """Connections whose request line never ends."""
    async with enemy.sockets(400, addresses=20) as sockets:
        for socket in sockets:
            socket.write(b"GET /_matrix/client/versions HTTP/1.1\r\n")
        for number in range(10_000):
            for socket in sockets:
                socket.write(f"x-{number}: y\r\n".encode())
            await asyncio.sleep(0.2)


@attack
async def idle_connections(enemy: Enemy) -> None:
    """Every connection that haproxy has, without a request."""
    async with enemy.sockets(3_000, addresses=100):
        await asyncio.sleep(30)


@attack
async def answers_that_nobody_reads(enemy: Enemy) -> None:
    """Requests in a row on one connection, of whose answers nobody reads a byte."""
    request = b"GET /_matrix/client/versions HTTP/1.1\r\nhost: x\r\n\r\n"
    async with enemy.sockets(50, addresses=10) as sockets:
        for socket in sockets:
            socket.transport.pause_reading()  # type: ignore[attr-defined]
            socket.write(request * 2_000)
        await asyncio.sleep(1)


@attack
async def connections_that_come_and_go(enemy: Enemy) -> None:
    """New connections that are cut right after half a request."""
    for _ in range(10):
        async with enemy.sockets(100, addresses=50) as sockets:
            for socket in sockets:
                socket.write(b"POST /_matrix/client/v3/login HTTP/1.1\r\ncontent-length: 10\r\n\r\n{")
            await asyncio.sleep(0.05)


@attack
async def bodies_without_end(enemy: Enemy) -> None:
    """Chunked bodies that grow for ever."""
    head = f"POST {CLIENT}/register HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    async with enemy.sockets(20, addresses=5) as sockets:
        for socket in sockets:
            socket.write(head.encode())
        for _ in range(200):
            for socket in sockets:
                socket.write(chunk)
            await asyncio.sleep(0.02)


@attack
async def guesses_at_passwords(enemy: Enemy) -> None:
    """The cost of a password's hash: wrong passwords of a user, from many addresses."""
    user = {"type": "m.id.user", "user": "honest-1"}
    body = {"type": "m.login.password", "identifier": user, "password": "wrong"}
    await at_once(
        [
            enemy.request("POST", "/login", body, account=None, source=enemy.address(enemy.unique() % 2_000))
            for _ in range(40)
        ]
    )


@attack
async def registrations_from_everywhere(enemy: Enemy) -> None:
    """Registrations that are begun, and never ended, from many addresses, with large bodies."""
    body = {"username": "", "password": "p" * 400, "initial_device_display_name": "d" * 60_000}
    calls = []
    for _ in range(40):
        number = enemy.unique()
        body = {**body, "username": f"stranger-{number}"}
        calls.append(enemy.request("POST", "/register", body, account=None, source=enemy.address(number % 2_000)))
    await at_once(calls)


@attack
async def questions_of_strangers(enemy: Enemy) -> None:
    """Endpoints that need no token, as fast as possible from one address."""
    paths = ("/login", "/profile/@honest-1:localhost", "/register/available?username=x", "/publicRooms")
    await at_once([enemy.request("GET", paths[n % 4], account=None) for n in range(60)])


@attack
async def tokens_that_do_not_exist(enemy: Enemy) -> None:
    """A query of the database for each invented token."""

    async def invented() -> None:
        connection = enemy.connection(None)
        connection.use_token(f"syt_invented_{enemy.unique()}")
        status, _ = await connection.raw_request("GET", f"{CLIENT}/account/whoami", b"")
        enemy.statuses[status] += 1
        connection.close()

    await at_once([invented() for _ in range(60)])


@attack
async def long_requests(enemy: Enemy) -> None:
    """Long paths, many parameters and many headers."""
    many = "&".join(f"k{n}=v" for n in range(4_000))
    paths = (f"/rooms/{'%21' * 7_000}/messages?dir=b", f"/publicRooms?{many}", f"/publicRooms?since={'a' * 28_000}")
    await at_once([enemy.request("GET", paths[n % 3], account=None if n % 2 else 0) for n in range(30)])
