"""Forwarding requests to the owner of their slot, and parking them while a slot moves.

Only the first worker that a request reaches forwards it. The next one, if it is not the owner either, answers 421 with
its epoch. The first then reads the table again and retries for 5 s, then answers 503.
Architecture page, section 3 "Wrong or no owner".
"""

import asyncio
import logging
import random
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import cast

from replication.slots.table import SlotTable
from shared.core.errors import MatrixError, RemoteServerError, Unavailable
from shared.core.slots import slot_of
from shared.http.client import HttpClient
from shared.http.endpoint import Pool, RoutingKey
from shared.http.request import FORWARDED, Request, Response
from shared.runtime import tracing
from shared.runtime.clock import Clock
from shared.runtime.context import request_id

logger = logging.getLogger(__name__)

_GIVE_UP_AFTER_S = 5.0
_TRY_AGAIN_AFTER_S = 0.1
#: How often the slot of a silent owner is looked at. An owner has lost it if another process has it twice in a row.
_LOOK_AGAIN_AFTER_S = 1.0
#: Requests that wait for an owner, by the memory that they take; more get 503 at once.
_MAX_WAITING_BYTES = 64 << 20
_REQUEST_BYTES = 16_000  # a request and its task, beside the body
_MISDIRECTED = 421
#: Headers that the owner needs unchanged.
_PASSED_ON = (b"authorization", b"content-type", b"x-forwarded-for", b"user-agent")


class SlotForwarder:
    """The HTTP server's `SlotRouter`: requests for our slots are served here, others are forwarded."""

    def __init__(self, table: SlotTable, client: HttpClient, clock: Clock, pools: Mapping[str, Pool]) -> None:
        self._table = table
        self._client = client
        self._clock = clock
        self._pools = pools
        self._waiting_bytes = 0
        self._held: dict[tuple[str, int], int] = {}  # the number of requests being served here, by slot
        self._parked: set[tuple[str, int]] = set()  # slots that are moving away
        self._unparked = asyncio.Event()
        self._released = asyncio.Event()

    async def route(self, request: Request) -> Response | None:
        kind, slot = self._slot(request)
        if slot is None:
            return None
        while True:
            if (kind, slot) in self._parked:
                await self._wait_while_parked(request, kind, slot)
            if self._table.owns(kind, slot):
                break
            if FORWARDED not in request.headers:
                elsewhere = await self.forward(request, kind, slot)
                if elsewhere is not None:
                    return elsewhere
            else:
                await self._table.refresh()
                if not self._table.owns(kind, slot):
                    raise _not_the_owner(kind, slot, self._table.epoch(kind, slot))
        self._hold(request, kind, slot)
        return None

    def free_slots(self, kind: str) -> set[int]:
        """Return our slots that are not moving away."""
        return {slot for slot in self._table.owned(kind) if (kind, slot) not in self._parked}

    async def route_to_any(self, request: Request, kind: str) -> Response | None:
        """Return None if this process may serve a request that chooses its own slot, else another owner's answer.

        After None the caller chooses one of `free_slots`, and holds it before it waits for anything.
        Raises Unavailable when there was no owner for 5 s.
        """
        deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
        while not self.free_slots(kind):
            elsewhere = self._table.owned_elsewhere(kind)
            if FORWARDED in request.headers:
                await self._table.refresh()
                if not self._table.owned(kind):
                    raise _not_the_owner(kind, 0, self._table.epoch(kind, 0))
            elif elsewhere:
                slot = random.choice(elsewhere)  # noqa: S311 - any will do
                answer = await self.forward(request, kind, slot)
                if answer is not None:
                    return answer
            if self._clock.monotonic_s() > deadline:
                raise Unavailable(f"No process owns slots of {kind} at the moment. Try again later")
            await asyncio.sleep(_TRY_AGAIN_AFTER_S)
        return None

    def hold(self, request: Request, kind: str, slot: int) -> None:
        """Keep a slot here until the request is answered. The request must not hold one yet."""
        assert request.held_slot is None
        self._hold(request, kind, slot)

    def _hold(self, request: Request, kind: str, slot: int) -> None:
        request.held_slot = (kind, slot)
        self._held[kind, slot] = self._held.get((kind, slot), 0) + 1

    def served(self, request: Request) -> None:
        """Release the slot of a request that was answered."""
        held, request.held_slot = request.held_slot, None
        if held is None:
            return
        left = self._held[held] - 1
        if left:
            self._held[held] = left
        else:
            del self._held[held]
            self._released.set()

    def park(self, kind: str, slots: Iterable[int]) -> None:
        """Hold back new requests for these slots until `unpark`."""
        self._parked |= {(kind, slot) for slot in slots}

    async def until_free(self, kind: str, slots: Iterable[int], timeout_s: float) -> set[int]:
        """Wait until no request for these slots is being served. Return the slots that are free in time."""
        wanted = {(kind, slot) for slot in slots}
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while wanted & self._held.keys():
                    self._released.clear()
                    await self._released.wait()
        return {slot for _, slot in wanted - self._held.keys()}

    def unpark(self, kind: str, slots: Iterable[int]) -> None:
        """Resume parked requests: at the new owner, or here if the slots stayed."""
        self._parked -= {(kind, slot) for slot in slots}
        self._unparked.set()
        self._unparked = asyncio.Event()

    async def _wait_while_parked(self, request: Request, kind: str, slot: int) -> None:
        try:
            with self._room_for(request.body):
                async with asyncio.timeout(_GIVE_UP_AFTER_S):
                    while (kind, slot) in self._parked:
                        await self._unparked.wait()
        except TimeoutError as error:
            raise Unavailable(f"Slot {slot} of {kind} is moving to another process. Try again later") from error

    @contextmanager
    def _room_for(self, body: bytes) -> Iterator[None]:
        """Count a request that waits. Raises Unavailable if those that wait take too much memory."""
        size = _REQUEST_BYTES + len(body)
        if self._waiting_bytes + size > _MAX_WAITING_BYTES:
            raise Unavailable("Too many requests wait for a slot. Try again later")
        self._waiting_bytes += size
        try:
            yield
        finally:
            self._waiting_bytes -= size

    def _slot(self, request: Request) -> tuple[str, int | None]:
        endpoint = request.endpoint
        kind = self._pools[endpoint.pool].slot_kind
        if not kind:
            return kind, None
        match endpoint.routing_key:
            case RoutingKey.ROOM | RoutingKey.ROOM_OR_ALIAS:
                room = cast("dict[str, str]", request.params)[endpoint.routing_key.value]
                return kind, None if room.startswith("#") else slot_of(room)
            case RoutingKey.USER:
                return kind, slot_of(request.params[RoutingKey.USER.value])
            case RoutingKey.FETCH:
                return kind, slot_of(request.params["fetchKey"])
            case RoutingKey.TOKEN_USER:
                return kind, slot_of(request.requester.user_id) if request.requester else None
            case _:
                return kind, None

    async def forward(
        self, request: Request, kind: str, slot: int, *, path: bytes | None = None, body: bytes | None = None
    ) -> Response | None:
        """Forward a request to the owner of a slot and return the answer, or None if this process is the owner.

        path, body: replace those of the request (such as a room id for an alias).
        Raises Unavailable when no owner answered within 5 s.
        """
        with self._room_for(request.body if body is None else body):
            deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
            while True:
                if self._table.owns(kind, slot):
                    return None
                address = self._table.address(kind, slot)
                if address is not None:
                    response = await self._ask_owner(address, request, kind, slot, path, body)
                    if response is not None:
                        return response
                if self._clock.monotonic_s() > deadline:
                    raise Unavailable(f"No process serves slot {slot} of {kind} at the moment. Try again later")
                await asyncio.sleep(_TRY_AGAIN_AFTER_S)
                await self._table.refresh()

    async def _ask_owner(
        self, address: str, request: Request, kind: str, slot: int, path: bytes | None, body: bytes | None
    ) -> Response | None:
        """Ask the owner until it answers, or another process has owned its slot for a moment: the owner may hang."""
        asking = asyncio.get_running_loop().create_task(self._ask(address, request, path, body))
        succeeded = False
        try:
            while not asking.done():
                await asyncio.wait((asking,), timeout=_LOOK_AGAIN_AFTER_S)
                if asking.done():
                    break
                if succeeded:
                    logger.info("The owner at %s lost the slot %d of %s, and did not answer", address, slot, kind)
                    if request.endpoint.idempotent:
                        return None
                    raise _went_away()
                succeeded = self._table.address(kind, slot) not in (None, address) or self._table.owns(kind, slot)
            return await asking
        finally:
            asking.cancel()

    async def _ask(self, address: str, request: Request, path: bytes | None, body: bytes | None) -> Response | None:
        headers = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        headers[FORWARDED] = b"1"
        headers[b"x-request-id"] = request_id.get().encode()
        headers.setdefault(b"x-forwarded-for", request.client_address.encode())
        for name, value in tracing.outgoing_headers().items():
            headers[name.encode()] = value.encode()
        target = request.path if path is None else path
        url = b"http://" + address.encode() + target
        if request.raw_query:
            url += b"?" + request.raw_query
        try:
            answer = await self._client.request(
                request.method.encode(), url, headers, request.body if body is None else body, timeout_s=60.0
            )
        except RemoteServerError as error:
            # Without a connection, try another owner. After a break in the middle, repeat idempotent requests only.
            if request.endpoint.idempotent or str(error) in _NEVER_SENT:
                logger.info("The owner at %s did not answer: %s", address, error)
                return None
            raise _went_away() from error
        if answer.status == _MISDIRECTED:
            return None
        kept = tuple((name, answer.headers[name]) for name in (b"retry-after",) if name in answer.headers)
        return Response(answer.body, answer.status, kept, answer.headers.get(b"content-type", b"application/json"))


#: Errors of Twisted's Agent that come before a byte of the request was sent.
_NEVER_SENT = ("ConnectionRefusedError", "ConnectError", "TimeoutError", "TCPTimedOutError", "NoRouteError")


def _went_away() -> Unavailable:
    return Unavailable("The process that serves this request went away. The request may have been carried out")


def _not_the_owner(kind: str, slot: int, epoch: int) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN", f"not the owner of slot {slot} of {kind}, epoch {epoch}", _MISDIRECTED, {"epoch": epoch}
    )
