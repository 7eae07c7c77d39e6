"""Unknown access tokens, counted per address: a stranger must not make this server look up one token after another."""

from collections import OrderedDict

from shared.config.sections import Rate
from shared.core.addresses import address_key
from shared.core.errors import limit_exceeded
from shared.core.token_bucket import Bucket, full_bucket, refilled, take
from shared.runtime.clock import Clock

_MAX_ADDRESSES = 20_000  # about 300 bytes each; addresses that sent no unknown token lately are evicted first


class TokenGuesses:
    """A bucket for each address from which unknown tokens came, in this process. rate: None for no limit."""

    def __init__(self, rate: Rate | None, clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._buckets: OrderedDict[str, Bucket] = OrderedDict()

    def check(self, address: str) -> None:
        """Raise M_LIMIT_EXCEEDED (429) if too many unknown tokens came from this address."""
        rate = self._rate
        if rate is None or not self._buckets:
            return
        bucket = self._buckets.get(address_key(address))
        if bucket is None:
            return
        now = refilled(bucket, self._clock.monotonic_s(), rate.per_second, rate.burst)
        if now.tokens < 1:
            raise limit_exceeded((1 - now.tokens) / rate.per_second)

    def failed(self, address: str) -> None:
        """Count an unknown token."""
        rate = self._rate
        if rate is None:
            return
        key, now_s = address_key(address), self._clock.monotonic_s()
        bucket = self._buckets.pop(key, None) or full_bucket(rate.burst, now_s)
        self._buckets[key] = take(bucket, now_s, rate.per_second, rate.burst).bucket
        if len(self._buckets) > _MAX_ADDRESSES:
            self._buckets.popitem(last=False)
