"""Outgoing HTTP: Twisted's Agent with persistent connections, as coroutines.

`HttpClient` is for calls between processes of the fleet, and to services named in the configuration. Requests to
addresses that users or other servers choose need checks of the address, and have a module of their own.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from twisted.internet import defer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import Agent, HTTPConnectionPool, PartialDownloadError, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from shared.core.errors import RemoteServerError
from shared.runtime.bridge import to_future


@dataclass(frozen=True, slots=True)
class HttpResponse:
    status: int
    headers: Mapping[bytes, bytes]
    body: bytes


class HttpClient:
    """An HTTP client.

    connections_per_host: kept alive and reused.
    max_body_bytes: a longer answer is an error.
    """

    def __init__(
        self,
        reactor: Any,
        *,
        connections_per_host: int = 16,
        connect_timeout_s: float = 2.0,
        max_body_bytes: int = 64 << 20,
    ) -> None:
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = connections_per_host
        pool.cachedConnectionTimeout = 60
        pool.retryAutomatically = False  # only the caller knows which requests may be repeated
        self._pool = pool
        self._agent = Agent(reactor, connectTimeout=connect_timeout_s, pool=pool)
        self._max_body_bytes = max_body_bytes

    async def request(
        self,
        method: bytes,
        url: bytes,
        headers: Mapping[bytes, bytes],
        body: bytes = b"",
        *,
        timeout_s: float,
    ) -> HttpResponse:
        """Send one request and read the whole answer.

        Raises RemoteServerError if the server cannot be reached, disconnects, or takes longer than `timeout_s`.
        """
        try:
            async with asyncio.timeout(timeout_s):
                response = await to_future(
                    self._agent.request(
                        method,
                        url,
                        Headers({name: [value] for name, value in headers.items()}),
                        _BytesProducer(body) if body else None,
                    )
                )
                collected = _Collector(self._max_body_bytes)
                response.deliverBody(collected)
                answer = await to_future(collected.finished)
        except TimeoutError as error:
            raise RemoteServerError(f"no answer within {timeout_s:g} s") from error
        except RemoteServerError:
            raise
        except Exception as error:  # Agent's errors have no common base
            raise RemoteServerError(type(error).__name__) from error
        found = {name.lower(): values[-1] for name, values in response.headers.getAllRawHeaders()}
        return HttpResponse(response.code, found, answer)

    async def close(self) -> None:
        await to_future(self._pool.closeCachedConnections())


@implementer(IBodyProducer)
class _BytesProducer:
    def __init__(self, body: bytes) -> None:
        self._body = body
        self.length = len(body)

    def startProducing(self, consumer: Any) -> "defer.Deferred[None]":
        consumer.write(self._body)
        return defer.succeed(None)

    def pauseProducing(self) -> None:
        """Do nothing: everything is written at once."""

    def resumeProducing(self) -> None:
        """Do nothing: everything is written at once."""

    def stopProducing(self) -> None:
        """Do nothing: everything is written at once."""


class _Collector(Protocol):
    def __init__(self, limit_bytes: int) -> None:
        self.finished: defer.Deferred[bytes] = defer.Deferred()
        self._chunks: list[bytes] = []
        self._size = 0
        self._limit = limit_bytes

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            if not self.finished.called:
                self.finished.errback(RemoteServerError(f"an answer of more than {self._limit} bytes"))
            if self.transport is not None:
                self.transport.loseConnection()
            return
        self._chunks.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(b"".join(self._chunks))
        else:
            self.finished.errback(
                RemoteServerError("the connection broke in the middle of the answer")
                if reason.check(PartialDownloadError) is None
                else reason.value
            )
