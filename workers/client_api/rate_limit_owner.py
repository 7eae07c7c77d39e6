"""The internal endpoint at which other processes take their share of a user's rate limit."""

from shared.core.errors import invalid_param
from shared.operations.rate_limits import TAKE_RATE_LIMIT, FleetRateLimiter, TakeAnswer, TakeRequest


class RateLimitOwner:
    def __init__(self, limiter: FleetRateLimiter) -> None:
        self._limiter = limiter

    @TAKE_RATE_LIMIT.handler
    async def take_rate_limit(self, request: TakeRequest) -> TakeAnswer:
        """Grant another process its share."""
        try:
            return self._limiter.answer(request)
        except ValueError as error:
            raise invalid_param("Unknown class of rate limits") from error
