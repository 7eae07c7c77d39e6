"""Requests that were forwarded to the owner of a slot, which hangs and loses the slot."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from replication.slots.forwarder import SlotForwarder
from shared.core.errors import Unavailable
from shared.http.client import HttpResponse
from shared.http.endpoint import Endpoint, Pool, RoutingKey
from shared.http.request import Request
from tests.rigs.clock import MockClock

_POOL = Pool(name="rooms", worker="event_persister", slot_kind="rooms")


@dataclass
class _Table:
    owner: str

    def owns(self, kind: str, slot: int) -> bool:
        return False

    def address(self, kind: str, slot: int) -> str | None:
        return self.owner

    async def refresh(self) -> None:
        """The test changes the owner."""


@dataclass
class _Client:
    """Reaches every process but "paused:1", which answers nothing."""

    asked: list[str] = field(default_factory=list)

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes = b"", *, timeout_s: float
    ) -> HttpResponse:
        host = url.decode().split("/")[2]
        self.asked.append(host)
        if host == "paused:1":
            await asyncio.sleep(timeout_s)
        return HttpResponse(200, {}, b"{}")


def _request(*, idempotent: bool) -> Request:
    endpoint = Endpoint(
        name="send",
        method="PUT",
        path="/send/{roomId}",
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        idempotent=idempotent,
    )
    params: Any = {"roomId": "!a:b"}
    return Request(
        endpoint=endpoint,
        method="PUT",
        path=b"/send/!a:b",
        raw_query=b"",
        params=params,
        headers={},
        body=b"",
        client_address="192.0.2.1",
        request_id="r",
    )


def _forwarder() -> tuple[SlotForwarder, _Table, _Client]:
    table, client = _Table("paused:1"), _Client()
    given: Any = table
    return SlotForwarder(given, client, MockClock(), {"rooms": _POOL}), table, client  # type: ignore[arg-type]


async def test_request_that_may_be_repeated_goes_to_the_next_owner() -> None:
    forwarder, table, client = _forwarder()
    asking = asyncio.create_task(forwarder.route(_request(idempotent=True)))
    await asyncio.sleep(0.1)
    table.owner = "successor:1"
    async with asyncio.timeout(20):
        answer = await asking
    assert answer is not None and answer.status == 200
    assert client.asked == ["paused:1", "successor:1"]


async def test_other_request_fails_soon() -> None:
    forwarder, table, client = _forwarder()
    asking = asyncio.create_task(forwarder.route(_request(idempotent=False)))
    await asyncio.sleep(0.1)
    table.owner = "successor:1"
    async with asyncio.timeout(20):
        with pytest.raises(Unavailable, match="may have been carried out"):
            await asking
    assert client.asked == ["paused:1"]
