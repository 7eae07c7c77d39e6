"""The wait before the next attempt, as a pure function of the time since which attempts fail.

The wait grows with the time since the first failure, so it nearly doubles from attempt to attempt. Two times are all
that must be stored: that of the first failure, and that of the next attempt. A peer that was away for less than 30 s is
tried again within 30 s.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BackOff:
    """The bounds of a wait. The default suits other servers.

    first_ms: the wait after the first failure, and the least of all.
    longest_ms: the longest wait.
    """

    first_ms: int = 2_000
    longest_ms: int = 3_600_000


def wait_ms(bounds: BackOff, failing_since_ms: int, now_ms: int, jitter: float) -> int:
    """Return the wait before the next attempt: between half of the time since the first failure and all of it.

    jitter: a random number from 0 to 1.
    """
    full_ms = min(max(now_ms - failing_since_ms, bounds.first_ms), bounds.longest_ms)
    return full_ms - int(full_ms * jitter / 2)
