"""Every endpoint that a client can reach has a rate limit, also per address for requests without a token."""

from typing import Any

import pytest

from deploy.endpoint_table import all_endpoints
from shared.config.sections import RateLimits
from shared.core.errors import MatrixError
from shared.http.endpoint import Auth, Endpoint, RateLimit
from shared.operations.rate_limits import FleetRateLimiter
from tests.rigs.clock import MockClock

_FROM_OUTSIDE = [endpoint for endpoint in all_endpoints() if endpoint.auth is not Auth.INTERNAL]
#: Counted by the endpoint itself, in the database: `tests/workers/client_api/test_refused_logins.py`.
_COUNTED_ELSEWHERE = {"login"}
_MOST = 1000


class _OwnSlots:
    def owns(self, kind: str, slot: int) -> bool:
        return True

    def address(self, kind: str, slot: int) -> str | None:
        return None


@pytest.mark.parametrize("endpoint", _FROM_OUTSIDE, ids=lambda endpoint: endpoint.name)
async def test_endpoint_limits_requests_without_a_token_by_address(endpoint: Endpoint) -> None:
    if endpoint.name in _COUNTED_ELSEWHERE:
        assert endpoint.rate_limit is RateLimit.LOGIN
        return
    nobody: Any = None
    limiter = FleetRateLimiter(RateLimits(), MockClock(), nobody, _OwnSlots())
    for number in range(_MOST):
        try:
            # Another address of the same network each time.
            await limiter.check(endpoint.rate_limit, None, f"2001:db8::{number:x}")
        except MatrixError as error:
            assert (error.status, error.errcode) == (429, "M_LIMIT_EXCEEDED")
            break
    else:
        pytest.fail(f"{endpoint.name} answered {_MOST} requests at once")
    await limiter.check(endpoint.rate_limit, None, "2001:db8:0:1::1")
