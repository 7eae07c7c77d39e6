"""Rate limits across processes hold within a factor of two, with or without their owner."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest

from shared.config.sections import Rate, RateLimits
from shared.core.errors import MatrixError, RemoteServerError
from shared.core.identifiers import UserId
from shared.http.client import HttpResponse
from shared.http.endpoint import RateLimit
from shared.http.internal_calls import InternalClient
from shared.http.request import Requester
from shared.operations.rate_limits import FleetRateLimiter, TakeRequest
from tests.rigs.clock import MockClock
from tests.rigs.worker import NO_LIMITS

_USER = Requester(UserId("@alice:example.org"), "D", b"")
_LIMITS = RateLimits(**{**dict.fromkeys(NO_LIMITS.__dataclass_fields__), "message": Rate(2, 30)})


@dataclass
class _Slots:
    owned: bool

    def owns(self, kind: str, slot: int) -> bool:
        return self.owned

    def address(self, kind: str, slot: int) -> str | None:
        return "owner:1"


@dataclass
class _ToOwner:
    """An HTTP client that reaches only the owner. owner: None if it is away."""

    owner: FleetRateLimiter | None
    calls: list[TakeRequest] = field(default_factory=list)

    async def request(
        self, method: bytes, url: bytes, headers: Mapping[bytes, bytes], body: bytes = b"", *, timeout_s: float
    ) -> HttpResponse:
        await asyncio.sleep(0)
        if self.owner is None:
            raise RemoteServerError("ConnectionRefusedError")
        take = msgspec.json.decode(body, type=TakeRequest)
        self.calls.append(take)
        return HttpResponse(200, {}, msgspec.json.encode(self.owner.answer(take)))


def _fleet(others: int, clock: MockClock, *, owner_there: bool = True) -> tuple[list[FleetRateLimiter], _ToOwner]:
    unreachable: Any = _ToOwner(None)
    owner = FleetRateLimiter(_LIMITS, clock, InternalClient(unreachable, "secret"), _Slots(True))
    client: Any = _ToOwner(owner if owner_there else None)
    to_owner = InternalClient(client, "secret")
    limiters = [FleetRateLimiter(_LIMITS, clock, to_owner, _Slots(False)) for _ in range(others)]
    return [owner, *limiters], client


async def _allowed(limiter: FleetRateLimiter) -> bool:
    try:
        await limiter.check(RateLimit.MESSAGE, _USER, "192.0.2.1")
    except MatrixError as error:
        assert (error.errcode, error.status) == ("M_LIMIT_EXCEEDED", 429)
        assert error.extra["retry_after_ms"] >= 1
        return False
    return True


@pytest.mark.parametrize("others", [0, 1, 4, 8])
async def test_limit_holds_across_processes_within_a_factor_of_two(others: int) -> None:
    clock = MockClock()
    limiters, client = _fleet(others, clock)
    allowed = 0
    for step in range(6000):  # 100 s of a client that never waits, at each process in turn
        allowed += await _allowed(limiters[step % len(limiters)])
        clock.advance(1 / 60)
    due = 30 + 2 * 100
    assert due / 2 <= allowed <= 2 * due
    # A process that was denied does not ask again before the next token is due.
    assert len(client.calls) <= due + others * 100 * 2 * 1.3


async def test_burst_takes_tokens_from_the_owner_in_chunks() -> None:
    limiters, client = _fleet(1, MockClock())
    results = await asyncio.gather(*(_allowed(limiters[1]) for _ in range(60)))
    assert sum(results) == 30
    assert len(client.calls) <= 12


async def test_process_limits_alone_while_the_owner_is_away() -> None:
    clock = MockClock()
    limiters, _ = _fleet(2, clock, owner_there=False)
    results = [await _allowed(limiters[1]) for _ in range(60)]
    assert sum(results) == 30


async def test_unlimited_requests_do_not_call_the_owner() -> None:
    limiters, client = _fleet(1, MockClock())
    for limit in (RateLimit.NONE, RateLimit.LOGIN, RateLimit.READ):
        for _ in range(1000):
            await limiters[1].check(limit, _USER, "x")
    assert client.calls == []
