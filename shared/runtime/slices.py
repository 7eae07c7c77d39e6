"""Slices of long work on the event loop, so that other requests run in between.

All long work of a process shares one lane: in each turn of the loop, one slice runs at most. So sixteen long requests
delay a short one by one slice in each of its steps, as a single one does.
"""

import asyncio
import time
from collections import deque
from weakref import WeakKeyDictionary


class _Lane:
    """The long work of one loop that waits for its next slice."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next_turn(self) -> None:
        if not self._waiting:
            self._loop.call_soon(self._wake_one)
        waiter = self._loop.create_future()
        self._waiting.append(waiter)
        await waiter

    def _wake_one(self) -> None:
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
                break
        if self._waiting:
            self._loop.call_soon(self._wake_one)


_lanes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Lane] = WeakKeyDictionary()


class Slices:
    """One piece of long work. slice_s: the time after which it lets others run."""

    def __init__(self, slice_s: float = 0.005) -> None:
        self._slice_s = slice_s
        self._began_s = time.monotonic()

    async def rest(self) -> None:
        """Let others run if the slice is over. Call it in each step, and expect that anything has changed after it."""
        if time.monotonic() - self._began_s > self._slice_s:
            loop = asyncio.get_running_loop()
            lane = _lanes.get(loop)
            if lane is None:
                lane = _lanes[loop] = _Lane(loop)
            await lane.next_turn()
            self._began_s = time.monotonic()
