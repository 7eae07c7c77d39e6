"""Token buckets as pure functions of (bucket, now). The caller keeps the bucket and reads the clock."""

from typing import NamedTuple


class Bucket(NamedTuple):
    """A token bucket at one point in time.

    tokens: how many there were at `at_s`.
    at_s: seconds on the caller's monotonic clock.
    """

    tokens: float
    at_s: float


class Taken(NamedTuple):
    """The result of taking tokens from a bucket.

    bucket: the bucket afterwards.
    granted: whole tokens, from 0 to the number wanted.
    wait_s: time until the next whole token; 0 if any was granted.
    """

    bucket: Bucket
    granted: int
    wait_s: float


def full_bucket(burst: int, now_s: float) -> Bucket:
    return Bucket(float(burst), now_s)


def refilled(bucket: Bucket, now_s: float, per_second: float, burst: int) -> Bucket:
    """Return the bucket as of now. If the clock stepped back, the number of tokens stays the same."""
    passed_s = max(0.0, now_s - bucket.at_s)
    return Bucket(min(float(burst), bucket.tokens + passed_s * per_second), now_s)


def take(bucket: Bucket, now_s: float, per_second: float, burst: int, wanted: int = 1) -> Taken:
    """Take up to `wanted` whole tokens."""
    now = refilled(bucket, now_s, per_second, burst)
    granted = min(wanted, int(now.tokens))
    if granted <= 0:
        return Taken(now, 0, (1.0 - now.tokens) / per_second)
    return Taken(Bucket(now.tokens - granted, now_s), granted, 0.0)
