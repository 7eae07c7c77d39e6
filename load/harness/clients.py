"""A cheap HTTP/1.1 client. CPU time of the generator is missing to the server under test.

One connection has one request at a time, written in one piece and parsed in C. There are no redirects, TLS or retries.
"""

import asyncio
from typing import Any, cast

import httptools
import orjson

from shared.core.identifiers import UserId


class RequestFailed(Exception):
    """The status was not 200, or the connection ended."""

    def __init__(self, request: str, status: int, body: bytes) -> None:
        super().__init__(f"{request}: {status} {body[:300].decode(errors='replace')}")
        self.status = status


class Connection(asyncio.Protocol):
    """A connection to the server that stays open. The next request replaces a broken one."""

    def __init__(self, host: str, port: int, token: str | None = None, *, source: str | None = None) -> None:
        """token: the access token of every request. source: the address to connect from."""
        self._host, self._port = host, port
        self._source = None if source is None else (source, 0)
        self.use_token(token)
        self._transport: asyncio.WriteTransport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None
        self._parser: httptools.HttpResponseParser
        self._body: list[bytes] = []

    def use_token(self, token: str | None) -> None:
        """Use this access token from the next request on."""
        authorization = f"authorization: Bearer {token}\r\n" if token else ""
        self._head = (
            f"host: {self._host}:{self._port}\r\n{authorization}content-type: application/json\r\ncontent-length: "
        )

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request and return the decoded JSON of its answer. path: percent-encoded.

        Raises RequestFailed for every status but 200, and OSError without a server.
        """
        status, answer = await self.raw_request(method, path, b"" if body is None else orjson.dumps(body))
        if status != 200:
            raise RequestFailed(f"{method} {path}", status, answer)
        return orjson.loads(answer)

    async def raw_request(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        """Send a request and return status and body. Status 0: the connection ended before the answer."""
        loop = asyncio.get_running_loop()
        if self._transport is None or self._transport.is_closing():
            await loop.create_connection(lambda: self, self._host, self._port, local_addr=self._source)
        assert self._transport is not None
        self._answer = loop.create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._body.clear()
        self._transport.write(f"{method} {path} HTTP/1.1\r\n{self._head}{len(body)}\r\n\r\n".encode() + body)
        return await self._answer

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # uvloop's transport is not a subclass

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._finish((0, str(exc or "connection closed").encode()))

    # httptools' callbacks

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        self._finish((status, b"".join(self._body)))

    def _finish(self, answer: tuple[int, bytes]) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


class User:
    """A registered user with their own connection."""

    def __init__(self, host: str, port: int, user_id: UserId, token: str) -> None:
        self.user_id = user_id
        self.connection = Connection(host, port, token)
        self._address, self._token = (host, port), token

    def on_another_connection(self) -> "User":
        """Return the same user with another connection, for concurrent requests (a long poll and a send)."""
        return User(*self._address, self.user_id, self._token)

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        """Send a request as `Connection.request` does."""
        return await self.connection.request(method, path, body)


async def register(host: str, port: int, username: str) -> User:
    """Register a user on a server with open registration (the development configuration)."""
    anonymous = Connection(host, port)
    answer = await anonymous.request(
        "POST",
        "/_matrix/client/v3/register",
        {"username": username, "password": f"load-{username}", "auth": {"type": "m.login.dummy"}},
    )
    anonymous.close()
    return User(host, port, answer["user_id"], answer["access_token"])
