"""The listener of a process: uvicorn's HTTP/1.1 protocol on the process's event loop."""

import asyncio
from typing import Any

from uvicorn import Config as UvicornConfig
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from shared.core.errors import MatrixError
from shared.http.asgi import CORS_HEADERS, AsgiApplication
from shared.http.framing import ConnectionState, FramingGuard
from shared.http.request import error_body

#: After its last answer a connection still reads and drops this much, for this long. Closed at once, it would reset a
#: peer that is still sending, and a reset may overtake the answer (RFC 9112, section 9.6).
_LINGER_BYTES = 4 << 20
_LINGER_S = 2.0


class _LingeringTransport:
    """A transport whose `close` ends the sending side first, and the connection when the peer has seen that."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._timer: asyncio.TimerHandle | None = None
        self._left = _LINGER_BYTES
        self.lingers = False
        self.write = transport.write  # called for each response: bypasses __getattr__

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        if self.lingers or self._transport.is_closing():
            return
        self.lingers = True
        try:
            self._transport.write_eof()
        except OSError:  # the peer has reset the connection
            self._transport.close()
            return
        self._transport.resume_reading()
        self._timer = asyncio.get_running_loop().call_later(_LINGER_S, self._transport.close)

    def discard(self, size: int) -> None:
        """Count bytes that arrived after `close`."""
        self._left -= size
        if self._left < 0:
            self._transport.close()

    def lost(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


class _Connection(HttpToolsProtocol):
    """A connection that answers anything but HTTP/1.1 with a Matrix error that browsers may read."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._lingering = _LingeringTransport(transport)
        super().connection_made(self._lingering)  # type: ignore[arg-type]

    def data_received(self, data: bytes) -> None:
        if self._lingering.lingers:
            self._lingering.discard(len(data))
        else:
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._lingering.lost()
        connection: ConnectionState = self.app_state["connection"]
        connection.lose()
        super().connection_lost(exc)
        # uvicorn leaves the timer of a connection that was reset, and the timer keeps the connection for two minutes.
        self._unset_keepalive_if_required()

    def send_400_response(self, msg: str) -> None:
        body = error_body(MatrixError("M_UNKNOWN", "The request is not valid HTTP"))
        headers = [
            (b"content-type", b"application/json"),
            *CORS_HEADERS,
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        lines = [b"HTTP/1.1 400 Bad Request", *(name + b": " + value for name, value in headers)]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self.transport.close()


class HttpServer:
    """The listener. `start` binds and serves. `drain` stops accepting, lets requests finish, then closes."""

    def __init__(self, application: AsgiApplication, host: str, port: int) -> None:
        self._config = UvicornConfig(
            FramingGuard(application),
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=120,  # longer than haproxy's timeout; haproxy closes idle connections itself
        )
        self._config.load()
        self._state = ServerState()
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None

    async def start(self) -> str:
        """Bind and listen. Return "host:port" (the system picks a port for 0)."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self._config, self._state, {"connection": ConnectionState()}, loop),
            self._host,
            self._port,
            backlog=4096,
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def drain(self, limit_s: float) -> None:
        """Close idle connections at once, and wait for the answers under way, at most `limit_s`."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        deadline = asyncio.get_running_loop().time() + limit_s
        while self._state.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.05)
        for connection in list(self._state.connections):
            if connection.transport is not None:
                connection.transport.abort()
