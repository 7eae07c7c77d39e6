"""The HTTP client for other servers: every address is checked, and every size and time is bounded.

The check happens when a socket is made, on the address to which it then connects. So a name that resolves to another
address the next time, a redirect or an address in a URL cannot get around it.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver
from yarl import URL

from shared.core.addresses import AddressRules
from shared.core.errors import RemoteServerError
from shared.metrics.outside import OutsideMetrics

logger = logging.getLogger(__name__)

#: Connections that stay open without a request.
_IDLE_S = 60.0
_DENIED = "is an address that the configuration denies"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideLimits:
    """The bounds of one request.

    connect_s: until the connection stands, the wait for a free one included.
    first_byte_s: until the head of the answer, and between two parts of its body.
    total_s: until the end of the answer.
    body_bytes: the greatest answer.
    least_bytes_per_s: an answer that comes more slowly is given up, but not in the first `grace_s`.
    """

    connect_s: float = 10.0
    first_byte_s: float = 30.0
    total_s: float = 60.0
    body_bytes: int = 1 << 20
    least_bytes_per_s: int = 1_000
    grace_s: float = 5.0


class AddressDenied(RemoteServerError):
    """The name leads to addresses only that the configuration denies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutsideResponse:
    """An answer. headers: by name in lower case; of several with one name, the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class OpenResponse:
    """An answer whose body has not been read yet."""

    def __init__(self, answer: aiohttp.ClientResponse, limits: OutsideLimits) -> None:
        self._answer = answer
        self._limits = limits
        self.status = answer.status
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in answer.headers.items()}

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises RemoteServerError if it is too large or too slow, or breaks off."""
        limits, size = self._limits, 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        async for chunk in self._answer.content.iter_any():
            size += len(chunk)
            if size > limits.body_bytes:
                raise RemoteServerError(f"an answer of more than {limits.body_bytes} bytes")
            late_s = loop.time() - began - limits.grace_s
            if late_s > 0 and size < late_s * limits.least_bytes_per_s:
                raise RemoteServerError(f"an answer with less than {limits.least_bytes_per_s} bytes a second")
            yield chunk


class OutsideClient:
    """Sends requests to servers of strangers. Create it in the process's loop.

    custom_ca_file: certificates of authorities to trust beside the system's.
    resolver: of names; None: the operating system's, so that its hosts file counts.
    connections: open at a time, all servers together; the others wait, within their `connect_s`.
    """

    def __init__(
        self,
        rules: AddressRules,
        metrics: OutsideMetrics,
        *,
        user_agent: str,
        custom_ca_file: Path | None = None,
        resolver: AbstractResolver | None = None,
        connections: int = 1_000,
        connections_per_host: int = 20,
    ) -> None:
        self._rules = rules
        self._metrics = metrics
        self._tls = ssl.create_default_context()
        if custom_ca_file is not None:
            self._tls.load_verify_locations(custom_ca_file)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._tls,
                limit=connections,
                limit_per_host=connections_per_host,
                keepalive_timeout=_IDLE_S,
                socket_factory=self._socket_to,
                resolver=resolver,
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            # A compressed answer may be a thousand times as large in memory.
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
            headers={"Accept-Encoding": "identity", "User-Agent": user_agent},
        )

    @asynccontextmanager
    async def open(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | AsyncIterator[bytes] | None = None,
        certificate_name: str | None = None,
        limits: OutsideLimits,
    ) -> AsyncIterator[OpenResponse]:
        """Send a request, and yield its answer once the head has come. Redirects are not followed.

        url: percent-encoded; it is sent as it stands.
        certificate_name: the name that the certificate must have, if it is not the host of the URL.
        Raises RemoteServerError, and AddressDenied.
        """
        timeout = aiohttp.ClientTimeout(total=limits.total_s, connect=limits.connect_s, sock_read=limits.first_byte_s)
        outcome = "failed"
        try:
            async with self._session.request(
                method,
                URL(url, encoded=True),
                headers=headers,
                data=body,
                allow_redirects=False,
                server_hostname=certificate_name,
                timeout=timeout,
            ) as answer:
                if answer.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
                    raise RemoteServerError("the answer is compressed, which was not asked for")
                outcome = f"{answer.status // 100}xx"
                yield OpenResponse(answer, limits)
        except aiohttp.ClientConnectorCertificateError as error:
            outcome = "certificate"
            raise RemoteServerError(f"the certificate is not valid: {_certificate_fault(error)}") from error
        except aiohttp.ClientConnectorError as error:
            if _DENIED in str(error.os_error):
                outcome = "denied"
                raise AddressDenied(str(error.os_error)) from error
            raise RemoteServerError(f"no connection: {error.os_error.strerror or error.os_error}") from error
        except TimeoutError as error:
            outcome = "timeout"
            raise RemoteServerError(f"no answer in time ({type(error).__name__})") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            # ValueError: an answer that is not HTTP, or a URL that is none.
            raise RemoteServerError(f"{type(error).__name__}: {str(error)[:200]}") from error
        finally:
            self._metrics.requests.labels(outcome).inc()

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        certificate_name: str | None = None,
        limits: OutsideLimits,
    ) -> OutsideResponse:
        """Send a request and read the whole answer. Arguments and errors are those of `open`."""
        async with self.open(
            method, url, headers=headers, body=body, certificate_name=certificate_name, limits=limits
        ) as answer:
            whole = b"".join([chunk async for chunk in answer.chunks()])
            return OutsideResponse(status=answer.status, headers=answer.headers, body=whole)

    async def close(self) -> None:
        await self._session.close()

    def _socket_to(self, info: tuple[Any, Any, int, str, tuple[Any, ...]]) -> socket.socket:
        """Return a socket for an address, the one to which it will connect."""
        family, kind, protocol, _, address = info
        if not self._rules.permit(str(address[0])):
            # An OSError has the connector try the next address. It joins the errors of all addresses into one text.
            raise OSError(f"{address[0]} {_DENIED}")
        return socket.socket(family, kind, protocol)


def _certificate_fault(error: aiohttp.ClientConnectorCertificateError) -> str:
    fault = error.certificate_error
    return fault.verify_message if isinstance(fault, ssl.SSLCertVerificationError) else str(fault)
