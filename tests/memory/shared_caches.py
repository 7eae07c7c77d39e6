"""Fillers of the caches that every type of process has, see `test_accounted_sizes.py`."""

import hashlib
from typing import Any, cast

from shared.config.sections import RateLimits
from shared.core.identifiers import UserId
from shared.http.endpoint import RateLimit
from shared.http.request import Requester
from shared.operations.authenticate import TokenAuthenticator, _Known
from shared.operations.rate_limits import FleetRateLimiter, _Share
from tests.memory.measuring import Kind
from tests.memory.synchrotron_caches import BUDGET, CLOCK

_NONE = cast("Any", None)
_USERS = 600


def authenticator() -> TokenAuthenticator:
    return TokenAuthenticator(_NONE, CLOCK, BUDGET, _NONE, _NONE)


def _requester(kind: Kind, number: int) -> Requester:
    token_hash = hashlib.sha256(f"{number}".encode()).digest()
    user, device = kind.id("@", number), kind.id("D", number) if kind.hostile else f"DEVICE{number:06}"
    return Requester(UserId(user), device, token_hash, device_created_ms=1_800_000_000_000 + number)


def fill_tokens(cache: TokenAuthenticator, kind: Kind) -> None:
    for number in range(_USERS):
        requester = _requester(kind, number)
        cache._remember(requester.token_hash, _Known(requester, 1_900_000_000_000 + number, False, 1000.0 + number))


def fill_last_seen(cache: TokenAuthenticator, kind: Kind) -> None:
    for number in range(_USERS):
        cache._note_use(_requester(kind, number), f"198.51.100.{number}", 1_800_000_000_000 + number)


def rate_limiter() -> FleetRateLimiter:
    return FleetRateLimiter(RateLimits(), CLOCK, _NONE, _NONE)


def fill_buckets(cache: FleetRateLimiter, kind: Kind) -> None:
    for number in range(_USERS):
        cache.grant(RateLimit.MESSAGE, kind.id("@", number), 1)


def fill_shares(cache: FleetRateLimiter, kind: Kind) -> None:
    for number in range(_USERS):
        share = cache._share_of(RateLimit.MESSAGE, kind.id("@", number))
        assert isinstance(share, _Share)
        share.tokens, share.got_s, share.denied_until_s = 3, 1000.0 + number, 2000.0 + number
