"""One clock for all tests."""

from collections.abc import Callable


class MockClock:
    """A clock that stands still until a test advances it.

    start_s: its first time, in seconds since 1970.
    source: a time in seconds, such as a loop's, with which the clock also runs.
    """

    def __init__(self, start_s: float = 1_790_000_000.0, source: Callable[[], float] = lambda: 0.0) -> None:
        self._start_s = start_s - source()
        self._source = source

    def advance(self, seconds: float) -> None:
        self._start_s += seconds

    def now_ms(self) -> int:
        return int(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        return self._start_s + self._source()
