"""Keep connections in step with their requests, so that no request's body is taken for another request.

Two guards around a listener's application, against request smuggling:

- A connection ends with an answer that goes out before its request was read whole (RFC 9112, section 9.3). A proxy may
  otherwise reuse the connection without ever sending the rest: the worker would then read the next request's first
  bytes as that body. haproxy 2.8.25 does so for HTTP/2 clients (`docs/security/haproxy_request_smuggling.md`).
- A connection from haproxy serves what haproxy lets through and nothing else: no page of the process, no internal
  endpoint, no request without haproxy's mark. One mistake in framing then opens nothing.
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from shared.core.errors import MatrixError, unrecognized
from shared.http.asgi import AsgiApplication, Receive, Send, send_response
from shared.http.endpoint_check import INTERNAL_PREFIX
from shared.http.errors_to_json import response_for
from shared.http.process_pages import PAGES

#: haproxy puts this on every request, and removes it from what clients send.
PROXIED = b"x-skep-proxied"
#: An early answer first reads the rest of a body, if it is no longer and arrives so soon: the connection is then kept.
_DRAIN_BYTES = 64 << 10
_DRAIN_S = 0.1

_INTERNAL = INTERNAL_PREFIX.encode()
_CLOSE = (b"connection", b"close")


@dataclass(slots=True)
class ConnectionState:
    """The part of a connection's history that later requests depend on.

    proxied: a request on it carried haproxy's mark.
    reading: the task of a request that changes nothing, and ends with the connection: nobody waits for its answer.
    is_lost: True once the connection is closed.
    """

    proxied: bool = False
    reading: "asyncio.Task[Any] | None" = None
    is_lost: bool = False

    def lose(self) -> None:
        """Note that the connection is closed."""
        self.is_lost = True
        if self.reading is not None:
            self.reading.cancel()


class FramingGuard:
    """The outermost ASGI application of a listener. `scope["state"]` holds the connection's `ConnectionState`."""

    def __init__(self, application: AsgiApplication) -> None:
        self._application = application

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        marked = has_body = expects_continue = False
        for name, value in scope["headers"]:
            if name == PROXIED:
                marked = True
            elif name == b"transfer-encoding" or (name == b"content-length" and value != b"0"):
                has_body = True
            elif name == b"expect":
                expects_continue = True
        if has_body:
            body = _Body(receive, send, may_drain=not expects_continue)
            receive, send = body.receive, body.send
        connection: ConnectionState = scope["state"]["connection"]
        if marked or connection.proxied:
            refusal = _refusal(connection, scope["raw_path"], marked=marked)
            connection.proxied = True
            if refusal is not None:
                await send_response(send, response_for(refusal), close=True)
                return
        try:
            await self._application(scope, receive, send)
        except asyncio.CancelledError:
            if not connection.is_lost:
                raise
        finally:
            connection.reading = None


def _refusal(connection: ConnectionState, path: bytes, *, marked: bool) -> MatrixError | None:
    """Return why a connection from haproxy does not serve this request, or None if it does."""
    if not marked:
        return MatrixError("M_UNKNOWN", "This connection belongs to a proxy, and the request did not pass it", 400)
    if path in PAGES or path.startswith(_INTERNAL):
        return unrecognized()
    return None


class _Body:
    """One request's body. If the answer begins before the body was read whole, the connection ends with it."""

    def __init__(self, receive: Receive, send: Send, *, may_drain: bool) -> None:
        self._receive = receive
        self._send = send
        self._may_drain = may_drain
        self._whole = False

    async def receive(self) -> dict[str, Any]:
        message = await self._receive()
        self._whole = self._whole or (message["type"] == "http.request" and not message.get("more_body"))
        return message

    async def send(self, message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start" and not self._whole:
            if self._may_drain:
                await self._drain()
            if not self._whole:
                message = {**message, "headers": [*message["headers"], _CLOSE]}
        await self._send(message)

    async def _drain(self) -> None:
        left = _DRAIN_BYTES
        try:
            async with asyncio.timeout(_DRAIN_S):
                while not self._whole and left > 0:
                    message = await self.receive()
                    if message["type"] == "http.disconnect":
                        return
                    left -= len(message.get("body", b""))
        except TimeoutError:
            return
