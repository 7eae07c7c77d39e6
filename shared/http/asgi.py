"""ASGI types, and sending of responses with the headers that all responses have."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, TypeAlias

from shared.http.request import Response

Receive: TypeAlias = Callable[[], Awaitable[dict[str, Any]]]
Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
AsgiApplication: TypeAlias = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

#: Spec: client-server API, "Web browser clients".
CORS_HEADERS: tuple[tuple[bytes, bytes], ...] = (
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"GET, POST, PUT, DELETE, OPTIONS"),
    (b"access-control-allow-headers", b"X-Requested-With, Content-Type, Authorization"),
)
#: Larger bodies are sent in pieces, so that their clients have a deadline too.
LARGE_BYTES = 131_072
_PIECE_BYTES = 65_536
#: A client gets this time for a large answer, and longer at this rate, up to the deadline. Its connection ends then,
#: since what it does not take occupies memory.
_PATIENCE_S = 30.0
_LEAST_BYTES_PER_S = 8_192
_DEADLINE_S = 300.0


async def send_response(send: Send, response: Response, *, close: bool = False) -> None:
    """Send a response with the headers that all responses have.

    close: True to close the connection after this response.
    Raises the errors of making a piece, and TimeoutError for a client that is too slow. Then the connection ends.
    """
    headers = [(b"content-type", response.content_type), *CORS_HEADERS, *response.headers]
    if close:
        headers.append((b"connection", b"close"))
    body = response.body
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if len(body) > LARGE_BYTES:
            await _send_pieces(send, _cut(body))
        else:
            await send({"type": "http.response.body", "body": body})
            return
    else:
        async with aclosing(body):
            await send({"type": "http.response.start", "status": response.status, "headers": headers})
            await _send_pieces(send, body)
    await send({"type": "http.response.body", "body": b""})


async def _send_pieces(send: Send, pieces: AsyncIterable[bytes]) -> None:
    sent_bytes, waited_s, now = 0, 0.0, asyncio.get_running_loop().time
    async for piece in pieces:
        allowed_s = min(_PATIENCE_S + sent_bytes / _LEAST_BYTES_PER_S, _DEADLINE_S)
        began_s = now()
        # Waits while too much of the answer is buffered for the client.
        async with asyncio.timeout(allowed_s - waited_s):
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        waited_s += now() - began_s
        sent_bytes += len(piece)


async def _cut(body: bytes) -> AsyncIterator[bytes]:
    for first in range(0, len(body), _PIECE_BYTES):
        yield body[first : first + _PIECE_BYTES]
