"""Time as a dependency. Code that needs the time takes a Clock, so that tests advance it instead of sleeping."""

import time
from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Return the time as a Matrix timestamp: milliseconds since 1970."""
        ...

    def monotonic_s(self) -> float:
        """Return seconds that never step back, for intervals."""
        ...


class SystemClock:
    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()
