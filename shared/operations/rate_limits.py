"""Rate limits for the whole fleet, exact within a factor of two (protocol notes, B15).

The bucket of a user (or of an address) is in the client_api process that owns the slot of its name. Every other process
takes tokens from there in small chunks, its share. While the owner does not answer, a process counts alone. Buckets are
in memory only: a restart forgets them, which costs one burst. Login attempts are counted in the database
(`shared/storage/accounts/login_attempts.py`), by the endpoint itself.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec

from shared.cache.byte_budget import ByteBudgetCache
from shared.cache.sizes import text_size
from shared.config.sections import Rate, RateLimits
from shared.core.addresses import address_key
from shared.core.errors import RemoteServerError, limit_exceeded
from shared.core.slots import slot_of
from shared.core.token_bucket import Bucket, full_bucket, take
from shared.http.endpoint import RateLimit
from shared.http.internal_calls import InternalClient, ProcessCall
from shared.http.request import Requester
from shared.runtime.clock import Clock

logger = logging.getLogger(__name__)

_ASK_TIMEOUT_S = 1.0
_ALONE_FOR_S = 2.0  # after the owner failed to answer, no request waits for it for this long
_SHARE_KEPT_S = 60.0  # unused shares expire, so that users get less, never more
#: Of the buckets that are kept, and of the shares: 30,000 each. Least recently used ones are evicted.
_BUDGET_BYTES = 16 << 20
#: Measured with tracemalloc, without the key.
_BUCKET_BYTES = 330
_SHARE_BYTES = 400

_PER_ADDRESS = frozenset({RateLimit.REGISTRATION})
#: Counted elsewhere, see the module's docstring.
_NOT_HERE = frozenset({RateLimit.NONE, RateLimit.LOGIN})
#: Counted by each process alone: a user's requests come to one process anyway, and a call to the owner costs too much.
_ALONE = frozenset({RateLimit.SYNC})


class Slots(Protocol):
    """The part of the slot table used here (`replication/slots/table.py`)."""

    def owns(self, kind: str, slot: int) -> bool: ...
    def address(self, kind: str, slot: int) -> str | None: ...


class TakeRequest(msgspec.Struct):
    """The body of the internal call.

    limit: the name of the rate limit class.
    key: a user id or "address:...".
    wanted: the number of tokens.
    """

    limit: str
    key: str
    wanted: int


class TakeAnswer(msgspec.Struct):
    """The answer. granted: from 0 to the number wanted. wait_s: if it is 0, the time until the next token."""

    granted: int
    wait_s: float


#: Takes tokens from a bucket of the process that owns the slot of its key.
TAKE_RATE_LIMIT = ProcessCall(
    name="take_rate_limit",
    path="/_skep/rate_limit/take",
    pool="client",
    takes=TakeRequest,
    returns=TakeAnswer,
    method="POST",
)


@dataclass(slots=True)
class _Share:
    """The tokens that a process other than the owner may spend.

    denied_until_s: the owner has no tokens before that time.
    alone_until_s: the process counts alone until that time.
    """

    tokens: int = 0
    got_s: float = 0.0
    denied_until_s: float = 0.0
    alone_until_s: float = 0.0
    asking: "asyncio.Task[None] | None" = None


class FleetRateLimiter:
    """The HTTP server's `RateLimiter`."""

    def __init__(self, limits: RateLimits, clock: Clock, client: InternalClient, slots: Slots) -> None:
        self._rates: Mapping[RateLimit, Rate | None] = {
            limit: getattr(limits, limit.value) for limit in RateLimit if limit not in _NOT_HERE
        }
        self._clock = clock
        self._client = client
        self._slots = slots
        self._buckets: ByteBudgetCache[tuple[RateLimit, str], Bucket] = ByteBudgetCache(_BUDGET_BYTES)
        self._shares: ByteBudgetCache[tuple[RateLimit, str], _Share] = ByteBudgetCache(_BUDGET_BYTES)

    async def check(self, limit: RateLimit, requester: Requester | None, client_address: str) -> None:
        """Count one request of this class. A class without a limit costs nothing.

        Raises MatrixError M_LIMIT_EXCEEDED, 429, with `retry_after_ms`.
        """
        rate = self._rates.get(limit)
        if rate is None:
            return
        by_user = None if requester is None or limit in _PER_ADDRESS else requester.user_id
        key = by_user or f"address:{address_key(client_address)}"
        if limit in _ALONE or self._slots.owns("users", slot := slot_of(key)):
            wait_s = self.grant(limit, key, 1).wait_s
        else:
            wait_s = await self._spend_share(limit, rate, key, slot)
        if wait_s > 0:
            raise limit_exceeded(wait_s)

    def grant(self, limit: RateLimit, key: str, wanted: int) -> TakeAnswer:
        """Take tokens from a bucket of this process, the owner of the key's slot."""
        rate = self._rates.get(limit)
        if rate is None:
            return TakeAnswer(wanted, 0.0)
        now_s = self._clock.monotonic_s()
        bucket = self._buckets.get((limit, key)) or full_bucket(rate.burst, now_s)
        taken = take(bucket, now_s, rate.per_second, rate.burst, wanted)
        self._buckets.put((limit, key), taken.bucket, _BUCKET_BYTES + text_size(key))
        return TakeAnswer(taken.granted, taken.wait_s)

    def answer(self, call: TakeRequest) -> TakeAnswer:
        """Answer another process's internal call. Raises ValueError for an unknown class."""
        return self.grant(RateLimit(call.limit), call.key, max(1, min(call.wanted, 1000)))

    def _share_of(self, limit: RateLimit, key: str) -> _Share:
        share = self._shares.get((limit, key))
        if share is None:
            share = _Share()
            self._shares.put((limit, key), share, _SHARE_BYTES + text_size(key))
        return share

    async def _spend_share(self, limit: RateLimit, rate: Rate, key: str, slot: int) -> float:
        share = self._share_of(limit, key)
        while True:
            now_s = self._clock.monotonic_s()
            if share.tokens > 0 and now_s - share.got_s <= _SHARE_KEPT_S:
                share.tokens -= 1
                return 0.0
            if share.denied_until_s > now_s:
                return share.denied_until_s - now_s
            if share.alone_until_s > now_s:
                return self.grant(limit, key, 1).wait_s
            if share.asking is None or share.asking.done():
                share.asking = asyncio.get_running_loop().create_task(self._top_up(share, limit, rate, key, slot))
            await asyncio.shield(share.asking)

    async def _top_up(self, share: _Share, limit: RateLimit, rate: Rate, key: str, slot: int) -> None:
        """Take a chunk from the owner. Afterwards the share has tokens, a denial, or leave to count alone."""
        address = self._slots.address("users", slot)
        answer = await self._ask(address, TakeRequest(limit.value, key, chunk_of(rate))) if address else None
        now_s = self._clock.monotonic_s()
        if answer is None:
            share.alone_until_s = now_s + _ALONE_FOR_S
        elif answer.granted > 0:
            share.tokens, share.got_s = answer.granted, now_s
        else:
            share.denied_until_s = now_s + max(answer.wait_s, 0.001)

    async def _ask(self, address: str, call: TakeRequest) -> TakeAnswer | None:
        try:
            return await self._client.ask(address, TAKE_RATE_LIMIT, call, timeout_s=_ASK_TIMEOUT_S)
        except RemoteServerError as error:
            logger.info("The owner of a rate limit at %s did not answer: %s", address, error)
            return None


def chunk_of(rate: Rate) -> int:
    """Return the number of tokens that a process takes at once: those of two seconds, but never much of the burst.

    A user can exceed the limit by the unused shares in other processes. An eighth of the burst in each of up to eight
    processes at most doubles it.
    """
    return max(1, min(rate.burst // 8, int(rate.per_second * 2)))
