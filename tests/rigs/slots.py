"""Slot tables and routers in memory."""

from collections.abc import Callable, Mapping
from typing import Protocol

from shared.core.errors import RemoteServerError
from shared.core.slots import slot_of
from shared.http.client import HttpResponse
from shared.http.endpoint import RoutingKey
from shared.http.request import FORWARDED, Request, Response
from tests.rigs.requests import Answer


class Reachable(Protocol):
    """A worker in memory, as another one reaches it."""

    async def raw(self, method: str, path: str, body: bytes, headers: list[tuple[bytes, bytes]]) -> Answer: ...


class MemorySlots:
    """The slot table of one process.

    takes: the predicate of the slots that it owns.
    reachable: False if no owner can be called, not even this process.
    """

    def __init__(self, takes: Callable[[int], bool] = lambda slot: True, *, reachable: bool = True) -> None:
        self.takes = takes
        self.reachable = reachable
        self.listeners: list[Callable[[str, set[int]], None]] = []
        self.refreshed = 0

    def owns(self, kind: str, slot: int) -> bool:
        return self.takes(slot)

    def owned(self, kind: str) -> set[int]:
        return {slot for slot in range(1024) if self.takes(slot)}

    def on_change(self, listener: Callable[[str, set[int]], None]) -> None:
        self.listeners.append(listener)

    def address(self, kind: str, slot: int) -> str | None:
        if not self.reachable:
            return None
        return "here" if self.takes(slot) else "other"

    def addresses(self, kind: str) -> set[str]:
        owners = {self.address(kind, slot) for slot in range(1024)}
        return {address for address in owners if address is not None}

    async def refresh(self) -> None:
        self.refreshed += 1


class MemoryRouter:
    """Routes requests for rooms as SlotForwarder does, to one other process in memory, if there is one."""

    def __init__(self, slots: MemorySlots) -> None:
        self.slots = slots
        self.other: Reachable | None = None

    async def route(self, request: Request) -> Response | None:
        if request.endpoint.routing_key not in (RoutingKey.ROOM, RoutingKey.ROOM_OR_ALIAS):
            return None
        room_id = request.params.get("roomId") or request.params.get("roomIdOrAlias") or "#"
        if room_id.startswith("#") or self.slots.takes(slot_of(room_id)):
            return None
        return await self.forward(request, "rooms", slot_of(room_id))

    async def forward(self, request: Request, kind: str, slot: int, *, path: bytes | None = None) -> Response | None:
        if self.slots.takes(slot) or self.other is None:
            return None
        assert FORWARDED not in request.headers, "passed on twice"
        headers = [*request.headers.items(), (FORWARDED, b"1")]
        answer = await self.other.raw(request.method, (path or request.path).decode(), request.body, headers)
        return Response(answer.body, answer.status)

    async def route_to_any(self, request: Request, kind: str) -> Response | None:
        return None

    def free_slots(self, kind: str) -> set[int]:
        return self.slots.owned(kind)

    def hold(self, request: Request, kind: str, slot: int) -> None:
        """Slots stay where they are."""

    def served(self, request: Request) -> None:
        """Nobody counts."""


class MemoryHttp:
    """The HTTP client of calls between owners of slots: to this process, or to the other one of its router."""

    def __init__(self, router: MemoryRouter) -> None:
        self._router = router
        self.here: Reachable | None = None

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes, *, timeout_s: float
    ) -> HttpResponse:
        host, _, path = url.decode().removeprefix("http://").partition("/")
        owner = self.here if host == "here" else self._router.other
        if owner is None:
            raise RemoteServerError("ConnectionRefusedError")
        answer = await owner.raw(method.decode(), "/" + path, body, list(headers.items()))
        return HttpResponse(answer.status, {}, answer.body)
