"""The internal call by which other processes take their share of a user's rate limit."""

import msgspec

from shared.core.errors import invalid_param
from shared.http.request import Request, Response, json_response
from shared.operations.rate_limits import FleetRateLimiter, TakeRequest


class RateLimitOwner:
    def __init__(self, limiter: FleetRateLimiter) -> None:
        self._limiter = limiter

    async def take_rate_limit(self, request: Request) -> Response:
        """POST /_skep/rate_limit/take."""
        try:
            answer = self._limiter.answer(request.decode(TakeRequest))
        except ValueError as error:
            raise invalid_param("No such class of rate limits") from error
        return json_response(msgspec.to_builtins(answer))
