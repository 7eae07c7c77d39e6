"""Token buckets as pure functions of (bucket, now): who calls them keeps the state and reads the clock."""

from typing import NamedTuple


class Bucket(NamedTuple):
    """tokens: how many were there at `at_s`; at_s: seconds of the caller's own clock, which never steps back."""

    tokens: float
    at_s: float


class Taken(NamedTuple):
    """What a request to a bucket gave.

    granted: whole tokens, from 0 to what was wanted; wait_s: until one token is there, 0 when any was granted.
    """

    bucket: Bucket
    granted: int
    wait_s: float


def full_bucket(burst: int, now_s: float) -> Bucket:
    return Bucket(float(burst), now_s)


def refilled(bucket: Bucket, now_s: float, per_second: float, burst: int) -> Bucket:
    """Return the bucket as it stands now. A clock that stepped back adds nothing and takes nothing."""
    passed_s = max(0.0, now_s - bucket.at_s)
    return Bucket(min(float(burst), bucket.tokens + passed_s * per_second), now_s)


def take(bucket: Bucket, now_s: float, per_second: float, burst: int, wanted: int = 1) -> Taken:
    """Take up to `wanted` tokens, whole ones only."""
    now = refilled(bucket, now_s, per_second, burst)
    granted = min(wanted, int(now.tokens))
    if granted <= 0:
        return Taken(now, 0, (1.0 - now.tokens) / per_second)
    return Taken(Bucket(now.tokens - granted, now_s), granted, 0.0)
