"""Reading of request bodies: within a size, a time and a least rate, and only so many large ones at a time.

Requests are authenticated and counted first, so a body of a stranger is read only by endpoints that need no token, and
only if it is small: haproxy then holds it back until it is whole, and its sender never occupies a worker.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.config.sections import Limits
from shared.core.addresses import address_key
from shared.core.errors import MatrixError
from shared.http.admission.places import Places
from shared.http.asgi import Receive
from shared.http.endpoint import Auth, Endpoint
from shared.http.request import Request
from shared.metrics.http import HttpMetrics

#: The longest body of a request without a token. It fits in haproxy's buffer (`tune.bufsize`) beside the headers.
OPEN_BODY_BYTES = 16 << 10
#: A longer body than haproxy's buffer reaches the worker piece by piece, at its sender's pace.
_LARGE_BYTES = 32 << 10
#: Most large bodies that one process reads at a time, of one sender and of all.
_LARGE_EACH = 4
_LARGE_IN_ALL = 64
#: Bytes of the bodies that wait in memory until their requests are answered, of one sender and of all. A poll may wait
#: for a minute, and a message for the database. Smaller bodies are bounded by the number of requests.
_HELD_BYTES_EACH = 16 << 20
_HELD_BYTES_IN_ALL = 256 << 20
_SMALL_BYTES = 4 << 10
#: The least rate counts from this time on.
_GRACE_S = 10.0
_SWEEP_EVERY_S = 0.5


class ClientGone(Exception):
    """The client disconnected before its request was complete."""


@dataclass(slots=True, eq=False)
class _Reading:
    """A body that is being read.

    size: the bytes so far.
    large: the sender for whom it counts among the large ones, if it does.
    overdue: True if it was cancelled, since it arrives too slowly.
    """

    began_s: float
    size: int = 0
    large: str | None = None
    overdue: bool = False


class BodyReader:
    """Reads the bodies of a process's requests."""

    def __init__(self, limits: Limits, metrics: HttpMetrics) -> None:
        self._limits = limits
        self._metrics = metrics
        self._reading: dict[asyncio.Task[Any], _Reading] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._large = Places("large_bodies", each=_LARGE_EACH, in_all=_LARGE_IN_ALL, metrics=metrics)
        self._held = Places("bytes_of_bodies", each=_HELD_BYTES_EACH, in_all=_HELD_BYTES_IN_ALL, metrics=metrics)

    def refuse_oversized(self, endpoint: Endpoint, headers: Mapping[bytes, bytes]) -> None:
        """Raise M_TOO_LARGE (413) before authentication if the announced length is over the endpoint's limit."""
        declared = headers.get(b"content-length")
        if declared is not None:
            _check_length(declared, self._limit(endpoint, may_have_token=endpoint.auth is not Auth.NONE))

    async def read(self, request: Request, receive: Receive) -> bytes:
        """Return the body of an authenticated request.

        Raises M_TOO_LARGE (413), 408 for a body that arrives too slowly, the errors of `Places.take` for too many large
        bodies, and ClientGone.
        """
        headers = request.headers
        declared = headers.get(b"content-length")
        if declared == b"0" or (declared is None and b"transfer-encoding" not in headers):
            return b""
        limit = self._limit(request.endpoint, may_have_token=request.requester is not None)
        if declared is not None:
            _check_length(declared, limit)
        task = asyncio.current_task()
        assert task is not None
        reading = self._reading[task] = _Reading(asyncio.get_running_loop().time())
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_EVERY_S, self._end_overdue)
        try:
            return await self._read(request, receive, reading, limit)
        except asyncio.CancelledError:
            if not reading.overdue or task.uncancel() > 0:
                raise
            self._metrics.turned_away("slow_bodies")
            raise MatrixError("M_UNKNOWN", "The body of the request arrived too slowly. Send it again", 408) from None
        finally:
            del self._reading[task]
            if reading.large is not None:
                self._large.give_back(reading.large)

    async def _read(self, request: Request, receive: Receive, reading: _Reading, limit: int) -> bytes:
        chunks: list[bytes] = []
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            reading.size += len(chunk)
            if reading.size > limit:
                raise _too_large(limit)
            more = message.get("more_body")
            if not more and not chunks:
                return chunk
            chunks.append(chunk)
            if not more:
                return b"".join(chunks)
            if reading.size > _LARGE_BYTES and reading.large is None and request.endpoint.auth is not Auth.INTERNAL:
                sender = _sender(request)
                self._large.take(sender)
                reading.large = sender

    def _end_overdue(self) -> None:
        """Cancel the reading of bodies that are too slow. One timer serves all: one for each costs 12 us a request."""
        now_s = asyncio.get_running_loop().time()
        for task, reading in self._reading.items():
            allowed_s = min(_GRACE_S + reading.size / self._limits.body_bytes_per_s, self._limits.body_deadline_s)
            if now_s - reading.began_s > allowed_s and not reading.overdue:
                reading.overdue = True
                task.cancel()
        self._sweep = None
        if self._reading:
            self._sweep = asyncio.get_running_loop().call_later(_SWEEP_EVERY_S, self._end_overdue)

    def hold(self, request: Request) -> None:
        """Count the body until `release`. Raises the errors of `Places.take`."""
        size = len(request.body)
        if size > _SMALL_BYTES and request.endpoint.auth is not Auth.INTERNAL:
            self._held.take(_sender(request), size)
            request.held_body_bytes = size

    def release(self, request: Request) -> None:
        """Note that the request is answered, whether its body was counted or not."""
        size, request.held_body_bytes = request.held_body_bytes, 0
        if size:
            self._held.give_back(_sender(request), size)

    def _limit(self, endpoint: Endpoint, *, may_have_token: bool) -> int:
        if endpoint.body_limit_bytes is not None:
            return endpoint.body_limit_bytes
        if not may_have_token and endpoint.auth in (Auth.NONE, Auth.OPTIONAL):
            return min(OPEN_BODY_BYTES, self._limits.max_body_bytes)
        return self._limits.max_body_bytes


def _sender(request: Request) -> str:
    """Return the user of a request, or the key of its address."""
    if request.requester is not None:
        return request.requester.user_id
    return f"address:{address_key(request.client_address)}"


def _check_length(declared: bytes, limit_bytes: int) -> None:
    if declared.isdigit() and int(declared) > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> MatrixError:
    return MatrixError("M_TOO_LARGE", f"The body must have at most {limit_bytes} bytes", 413)
