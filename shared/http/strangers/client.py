"""Requests to servers that other people choose: checked addresses, verified certificates, and limits on everything.

- The address that is connected to is the one that was checked: the check is made when the socket is opened. So a name
  that resolves anew, an IP literal or a redirect leads nowhere else.
- The certificate is checked for the name that the caller gives, which need not be the host that is connected to.
  Connections are kept and shared only among requests with the same name (spec: server-server API, "Server discovery").
- Connections, headers, bodies and times are limited, and so is slowness: an answer that trickles is given up.
- Answers may be streamed. Nothing is decompressed, and no redirect is followed unless the caller says so.

`shared/http/client.py` is for calls inside the fleet.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import yarl

from shared.core.errors import RemoteServerError
from shared.http.client import HttpResponse
from shared.http.strangers.addresses import AddressRules

_MAX_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_RATE_WINDOW_S = 5.0  # the time over which slowness is judged
_KEPT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class StrangerLimits:
    """Limits of requests to strangers.

    connections, connections_per_host: open at a time. Further requests wait, within `first_byte_s`.
    header_bytes: of one line of the head of an answer.
    headers: of an answer.
    body_bytes: of an answer, unless the request has a limit of its own.
    connect_s: for the look-up of the name, the connection and its encryption.
    first_byte_s: from the start of the request to the head of the answer.
    total_s: of a request, unless it has a limit of its own.
    least_bytes_per_s: of a body, over some seconds.
    """

    connections: int = 1000
    connections_per_host: int = 20
    header_bytes: int = 8190
    headers: int = 128
    body_bytes: int = 64 << 20
    connect_s: float = 10.0
    first_byte_s: float = 60.0
    total_s: float = 120.0
    least_bytes_per_s: float = 1000.0


class _Refused(OSError):
    """The address is not one of a stranger."""


@dataclass(slots=True)
class StrangerResponse:
    """An answer whose body is still to be read. headers: with lower-case names; the last one of several."""

    status: int
    headers: Mapping[bytes, bytes]
    chunks: AsyncIterator[bytes]


class StrangerClient:
    """A client for requests to strangers.

    rules: the addresses that it may connect to.
    tls: the authorities whose certificates it trusts. Names are always checked.
    clock_s: a monotonic clock.
    resolver: finds the addresses of a name. By default as other programs of this host do (`getaddrinfo`).
    """

    def __init__(
        self,
        rules: AddressRules,
        tls: ssl.SSLContext,
        limits: StrangerLimits | None = None,
        *,
        clock_s: Callable[[], float] = time.monotonic,
        resolver: Any = None,
    ) -> None:
        if not tls.check_hostname or tls.verify_mode is not ssl.CERT_REQUIRED:
            raise ValueError("the context must verify certificates and names")
        self._rules = rules
        self._limits = limits or StrangerLimits()
        self._clock_s = clock_s
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._limits.connections,
                limit_per_host=self._limits.connections_per_host,
                keepalive_timeout=_KEPT_S,
                ssl=tls,
                resolver=resolver,
                socket_factory=self._open_socket,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
            max_line_size=self._limits.header_bytes,
            max_field_size=self._limits.header_bytes,
            max_headers=self._limits.headers,
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
        )

    @asynccontextmanager
    async def stream(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | AsyncIterator[bytes] = b"",
        *,
        tls_name: str | None = None,
        max_body_bytes: int | None = None,
        total_s: float | None = None,
    ) -> AsyncIterator[StrangerResponse]:
        """Send one request, and lend its answer while its body is read.

        url: as it is sent: nothing in it is encoded again.
        tls_name: the name in the certificate. None: the URL's host.
        Raises RemoteServerError, also from `chunks`.
        """
        limits = self._limits
        try:
            async with asyncio.timeout(limits.total_s if total_s is None else total_s):
                async with asyncio.timeout(limits.first_byte_s):
                    response = await self._session.request(
                        method,
                        yarl.URL(url, encoded=True),
                        headers=headers,
                        data=body or None,
                        allow_redirects=False,
                        server_hostname=tls_name,
                        timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect_s),
                    )
                try:
                    chunks = self._chunks(response, max_body_bytes or limits.body_bytes)
                    found = {name.lower(): value for name, value in response.raw_headers}
                    yield StrangerResponse(response.status, found, chunks)
                finally:
                    response.close()  # a connection whose answer was read completely is kept nevertheless
        except TimeoutError as error:
            raise RemoteServerError("no answer in time") from error
        except aiohttp.ClientError as error:
            raise RemoteServerError(_reason(error)) from error
        except ValueError as error:
            raise RemoteServerError(f"not a valid request: {error}") from error

    async def request(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        tls_name: str | None = None,
        max_body_bytes: int | None = None,
        total_s: float | None = None,
    ) -> HttpResponse:
        """Send one request and read the whole answer. As `stream`."""
        options: dict[str, Any] = {"tls_name": tls_name, "max_body_bytes": max_body_bytes, "total_s": total_s}
        async with self.stream(method, url, headers, body, **options) as answer:
            content = b"".join([chunk async for chunk in answer.chunks])
        return HttpResponse(answer.status, answer.headers, content)

    async def get_following(
        self, url: str, headers: Mapping[str, str], *, max_body_bytes: int, total_s: float
    ) -> HttpResponse:
        """Send a GET request and follow redirects, over TLS only. Each hop is checked as the first one is.

        Raises RemoteServerError, also for a redirect elsewhere or one too many.
        """
        try:
            async with asyncio.timeout(total_s):
                for _ in range(_MAX_REDIRECTS + 1):
                    if not url.startswith("https://"):
                        raise RemoteServerError("a redirect to something that is not https")
                    answer = await self.request("GET", url, headers, max_body_bytes=max_body_bytes, total_s=total_s)
                    where = answer.headers.get(b"location")
                    if answer.status not in _REDIRECTS or where is None:
                        return answer
                    url = _joined(url, where)
        except TimeoutError as error:
            raise RemoteServerError("no answer in time") from error
        raise RemoteServerError("too many redirects")

    async def close(self) -> None:
        await self._session.close()

    def _open_socket(self, info: Any) -> socket.socket:
        """Open a socket for an address, just before it is connected to."""
        family, kind, protocol, _, address = info
        if not self._rules.allow(address[0]):
            raise _Refused(f"{address[0]} is not an address of a stranger")
        return socket.socket(family, kind, protocol)

    async def _chunks(self, response: aiohttp.ClientResponse, max_bytes: int) -> AsyncIterator[bytes]:
        least_bytes = self._limits.least_bytes_per_s * _RATE_WINDOW_S
        size, window, window_began_s = 0, 0, self._clock_s()
        while True:
            async with asyncio.timeout(_RATE_WINDOW_S):
                chunk = await response.content.readany()
            if not chunk:
                return
            size += len(chunk)
            if size > max_bytes:
                raise RemoteServerError(f"an answer of more than {max_bytes} bytes")
            yield chunk
            # The time that the reader of these chunks takes is not the stranger's.
            now_s = self._clock_s()
            window += len(chunk)
            if now_s - window_began_s >= _RATE_WINDOW_S:
                if window < least_bytes:
                    raise RemoteServerError("the answer comes too slowly")
                window, window_began_s = 0, now_s


def _joined(url: str, where: bytes) -> str:
    try:
        return str(yarl.URL(url, encoded=True).join(yarl.URL(where.decode("latin-1"), encoded=True)))
    except ValueError as error:
        raise RemoteServerError("a redirect to something that is no URL") from error


def _reason(error: aiohttp.ClientError) -> str:
    """Return what happened, for logs: never a body or a header."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, _Refused):
            return str(cause)
        cause = cause.__cause__
    return type(error).__name__
