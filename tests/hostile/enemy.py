"""The means of an attacker, and the list of attacks.

An attack is an async function with the decorator `attack`, in a module of `tests/hostile/attacks/`. It is called again
until its time is over, and may be cancelled at any await.
"""

import asyncio
import importlib
import itertools
import pkgutil
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import quote

import orjson

from load.harness.clients import Connection
from tests.hostile import attacks

CLIENT = "/_matrix/client/v3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account of the attacker, signed in."""

    user_id: str
    token: str
    password: str


@dataclass(slots=True, kw_only=True)
class Enemy:
    """An attacker, who has a few accounts, many addresses, and is a member of a public room with honest users.

    host, port: the fleet's client listener.
    rooms: ids of rooms in which honest users talk. The attacker's accounts are members of the first one.
    statuses: how often each status was answered. 0: the connection ended instead.
    """

    host: str
    port: int
    accounts: Sequence[Account]
    rooms: Sequence[str]
    statuses: Counter[int] = field(default_factory=Counter)
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def unique(self) -> int:
        """Return a number that no other call returns."""
        return next(self._numbers)

    def address(self, number: int = 0) -> str:
        """Return one of the attacker's own network addresses."""
        return f"127.66.{number // 250 % 250}.{number % 250 + 1}"

    def connection(self, account: int | None = 0, *, source: str | None = None) -> Connection:
        """Return a connection with the account's token. None: without a token. Requests on it are not counted."""
        token = None if account is None else self.accounts[account].token
        return Connection(self.host, self.port, token, source=source or self.address())

    async def request(
        self, method: str, path: str, body: Any = None, *, account: int | None = 0, source: str | None = None
    ) -> tuple[int, bytes]:
        """Send one request on a new connection and return (status, body). body: bytes, or a value to encode as JSON.

        path: without "/_matrix/client/v3", unless it begins with "/_".
        """
        connection = self.connection(account, source=source)
        raw = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        try:
            status, answer = await connection.raw_request(method, path if path.startswith("/_") else CLIENT + path, raw)
        except OSError as error:
            status, answer = 0, str(error).encode()
        finally:
            connection.close()
        self.statuses[status] += 1
        return status, answer

    async def ask(self, method: str, path: str, body: Any = None, *, account: int | None = 0) -> Any:
        """Send a request that prepares an attack, and return the JSON. Wait as long as a limit says.

        Raises RuntimeError for another status than 200 or 429.
        """
        while True:
            status, answer = await self.request(method, path, body, account=account)
            if status == 200:
                return orjson.loads(answer)
            if status not in (0, 429):
                raise RuntimeError(f"{method} {path}: {status} {answer[:300].decode(errors='replace')}")
            # 0: the limit on connections of an address, after an attack with many of them.
            wait_ms = orjson.loads(answer).get("retry_after_ms", 500) if status else 500
            await asyncio.sleep(wait_ms / 1000)

    async def send(self, room_id: str, content: Any, *, account: int = 0) -> tuple[int, bytes]:
        """Send a message into a room."""
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/hostile-{self.unique()}-{id(self):x}"
        return await self.request("PUT", path, content, account=account)

    @asynccontextmanager
    async def sockets(self, number: int, *, addresses: int = 1) -> AsyncIterator[list[asyncio.StreamWriter]]:
        """Open up to `number` raw connections, and close them afterwards. addresses: used in turn."""
        writers: list[asyncio.StreamWriter] = []
        try:
            for n in range(number):
                try:
                    _, writer = await asyncio.open_connection(
                        self.host, self.port, local_addr=(self.address(n % addresses), 0)
                    )
                except OSError:
                    break  # refused, which is the server's right
                writers.append(writer)
            yield writers
        finally:
            for writer in writers:
                writer.close()


async def at_once(work: Sequence[Awaitable[Any]]) -> None:
    """Await all, whatever comes of them."""
    await asyncio.gather(*work, return_exceptions=True)


Attack: TypeAlias = Callable[[Enemy], Awaitable[None]]

_ATTACKS: dict[str, Attack] = {}


def attack(function: Attack) -> Attack:
    """Add a function to the list of attacks. Its name is the attack's, and its docstring says what it aims at."""
    name = getattr(function, "__name__", "")
    if name in _ATTACKS or not function.__doc__:
        raise ValueError(f"the attack {name!r} needs a name of its own and a docstring")
    _ATTACKS[name] = function
    return function


def all_attacks() -> dict[str, Attack]:
    """Return name -> attack of all modules in `tests/hostile/attacks/`."""
    for module in pkgutil.iter_modules(attacks.__path__):
        importlib.import_module(f"{attacks.__name__}.{module.name}")
    return dict(_ATTACKS)
