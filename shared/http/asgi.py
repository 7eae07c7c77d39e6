"""ASGI types, and sending of responses with the headers that all responses have."""

import asyncio
from collections.abc import Awaitable, Callable
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
#: A client that takes nothing of a streamed answer for this long is disconnected, since its pieces occupy memory.
_STALLED_S = 30.0


async def send_response(send: Send, response: Response, *, close: bool = False) -> None:
    """Send a response with the headers that all responses have.

    close: True to close the connection after this response.
    Raises the errors of making a piece, and TimeoutError for a client that takes nothing. Then the connection ends.
    """
    headers = [(b"content-type", response.content_type), *CORS_HEADERS, *response.headers]
    if close:
        headers.append((b"connection", b"close"))
    body = response.body
    if isinstance(body, bytes):
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})
        return
    async with aclosing(body):
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        async for piece in body:
            # Waits while too much of the answer is buffered for the client.
            async with asyncio.timeout(_STALLED_S):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
