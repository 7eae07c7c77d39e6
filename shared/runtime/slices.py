"""Slices of long work on the event loop, so that other requests run in between."""

import asyncio
import time


class Slices:
    """One piece of long work. slice_s: the time after which it lets others run."""

    def __init__(self, slice_s: float = 0.005) -> None:
        self._slice_s = slice_s
        self._began_s = time.monotonic()

    async def rest(self) -> None:
        """Let others run if the slice is over. Call it in each step, and expect that anything has changed after it."""
        if time.monotonic() - self._began_s > self._slice_s:
            await asyncio.sleep(0)
            self._began_s = time.monotonic()
