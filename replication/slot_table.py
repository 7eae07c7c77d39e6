"""Who owns which slot, as this process last read it, and passing requests on to the owner.

The table is a copy: Postgres decides, at each write, through the fence. Only the first worker that a request reaches
passes it on; the next one, if it is not the owner either, answers 421 with its epoch, and the first reads the table
afresh and tries again until 5 s are over, then 503. Architecture page, section 3 "Wrong or no owner".
"""

import asyncio
import logging
from collections.abc import Callable, Mapping

from shared.core.errors import MatrixError, RemoteServerError, Unavailable
from shared.core.slots import SLOT_KINDS, SLOTS, slot_of
from shared.http.client import HttpClient
from shared.http.endpoint import Pool, RoutingKey
from shared.http.request import Request, Response
from shared.http.server import FORWARDED
from shared.runtime import tracing
from shared.runtime.clock import Clock
from shared.runtime.context import request_id
from shared.storage.pool import Database
from shared.storage.slots import get_slots

logger = logging.getLogger(__name__)

_GIVE_UP_AFTER_S = 5.0
_TRY_AGAIN_AFTER_S = 0.1
_MAX_WAITING = 2000  # requests of this process that wait for an owner; more get 503 at once
_MISDIRECTED = 421
#: Headers that the owner needs as the first worker got them.
_PASSED_ON = (b"authorization", b"content-type", b"x-forwarded-for", b"user-agent")


class SlotTable:
    """The copy of the slot table. lease: ours; what Postgres says of it decides which slots are ours."""

    def __init__(self, database: Database, lease: int) -> None:
        self._database = database
        self._lease = lease
        self._owners: dict[str, list[int | None]] = {kind: [None] * SLOTS for kind in SLOT_KINDS}
        self._epochs: dict[str, list[int]] = {kind: [0] * SLOTS for kind in SLOT_KINDS}
        self._addresses: dict[int, str] = {}
        self._reading: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[str, set[int]], None]] = []

    def on_change(self, listener: Callable[[str, set[int]], None]) -> None:
        """listener(kind, slots that are ours now): called after each reading that changed what we own."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Read the table again; callers at the same time share one reading."""
        if self._reading is None or self._reading.done():
            self._reading = asyncio.get_running_loop().create_task(self._read())
        await asyncio.shield(self._reading)

    async def _read(self) -> None:
        snapshot = await get_slots(self._database)
        before = {kind: self.owned(kind) for kind in SLOT_KINDS}
        for row in snapshot.slots:
            self._owners[row.kind][row.slot] = row.owner
            self._epochs[row.kind][row.slot] = row.epoch
        self._addresses = snapshot.addresses
        for kind in SLOT_KINDS:
            now = self.owned(kind)
            if now != before[kind]:
                for listener in self._listeners:
                    listener(kind, now)

    def owned(self, kind: str) -> set[int]:
        return {slot for slot, owner in enumerate(self._owners[kind]) if owner == self._lease}

    def owns(self, kind: str, slot: int) -> bool:
        return self._owners[kind][slot] == self._lease

    def epoch(self, kind: str, slot: int) -> int:
        return self._epochs[kind][slot]

    def address(self, kind: str, slot: int) -> str | None:
        """Return the owner's "host:port", or None while nobody owns the slot."""
        owner = self._owners[kind][slot]
        return self._addresses.get(owner) if owner is not None else None


class SlotForwarder:
    """The HTTP server's `SlotRouter`: serves what this process owns, passes the rest on."""

    def __init__(self, table: SlotTable, client: HttpClient, clock: Clock, pools: Mapping[str, Pool]) -> None:
        self._table = table
        self._client = client
        self._clock = clock
        self._pools = pools
        self._waiting = 0

    async def route(self, request: Request) -> Response | None:
        kind, slot = self._slot(request)
        if slot is None or self._table.owns(kind, slot):
            return None
        if FORWARDED in request.headers:
            await self._table.refresh()
            if self._table.owns(kind, slot):
                return None
            raise _not_the_owner(kind, slot, self._table.epoch(kind, slot))
        return await self.forward(request, kind, slot)

    def _slot(self, request: Request) -> tuple[str, int | None]:
        endpoint = request.endpoint
        kind = self._pools[endpoint.pool].slot_kind
        if not kind:
            return kind, None
        match endpoint.routing_key:
            case RoutingKey.ROOM | RoutingKey.ROOM_OR_ALIAS:
                room = request.params[endpoint.routing_key.value]
                return kind, None if room.startswith("#") else slot_of(room)
            case RoutingKey.USER:
                return kind, slot_of(request.params[RoutingKey.USER.value])
            case RoutingKey.TOKEN_USER:
                return kind, slot_of(request.requester.user_id) if request.requester else None
            case _:
                return kind, None

    async def forward(
        self, request: Request, kind: str, slot: int, *, path: bytes | None = None, body: bytes | None = None
    ) -> Response | None:
        """Pass the request on to the slot's owner; None when that turns out to be this process.

        path, body: to send in place of the request's own (such as a room id in place of an alias).
        Raises Unavailable when no owner answered within 5 s.
        """
        if self._waiting >= _MAX_WAITING:
            raise Unavailable("Too many requests wait for their slot")
        self._waiting += 1
        try:
            deadline = self._clock.monotonic_s() + _GIVE_UP_AFTER_S
            while True:
                if self._table.owns(kind, slot):
                    return None
                address = self._table.address(kind, slot)
                if address is not None:
                    response = await self._ask(address, request, path, body)
                    if response is not None:
                        return response
                if self._clock.monotonic_s() > deadline:
                    raise Unavailable(f"Nobody serves slot {slot} of {kind} just now")
                await asyncio.sleep(_TRY_AGAIN_AFTER_S)
                await self._table.refresh()
        finally:
            self._waiting -= 1

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
            # Not connected at all: try another owner. Broken off in the middle: only what may be repeated is.
            if request.endpoint.idempotent or str(error) in _NEVER_SENT:
                logger.info("The owner at %s did not answer: %s", address, error)
                return None
            raise Unavailable(
                "The process that serves this went away; the request may have been carried out"
            ) from error
        if answer.status == _MISDIRECTED:
            return None
        kept = tuple((name, answer.headers[name]) for name in (b"retry-after",) if name in answer.headers)
        return Response(answer.body, answer.status, kept, answer.headers.get(b"content-type", b"application/json"))


#: Errors of Twisted's Agent that come before a byte of the request was sent.
_NEVER_SENT = ("ConnectionRefusedError", "ConnectError", "TimeoutError", "TCPTimedOutError", "NoRouteError")


def _not_the_owner(kind: str, slot: int, epoch: int) -> MatrixError:
    return MatrixError(
        "M_UNKNOWN", f"not the owner of slot {slot} of {kind}, epoch {epoch}", _MISDIRECTED, {"epoch": epoch}
    )
