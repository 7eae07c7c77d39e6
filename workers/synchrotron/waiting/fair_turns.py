"""Turns for work that takes much: so many at a time, and among those who wait each user in his turn.

A user who asks for much at once waits for himself and delays nobody else by more than one turn.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class FairTurns:
    """at_once: how many turns are being taken at most."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        #: Who waits, by user; the user whose turn comes next first.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, user_id: str) -> AsyncIterator[None]:
        """Wait for a turn, and have it while the body runs."""
        await self._take(user_id)
        try:
            yield
        finally:
            self._give()

    async def _take(self, user_id: str) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give()  # it was ours already: pass it on
            else:
                self._forget(user_id, waiter)
            raise

    def _give(self) -> None:
        """Hand the turn to the next user's oldest request; he then stands behind all others."""
        while self._waiting:
            user_id, waiters = self._waiting.popitem(last=False)
            waiter = waiters.popleft()
            if waiters:
                self._waiting[user_id] = waiters
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _forget(self, user_id: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(user_id)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[user_id]

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a turn."""
        return sum(map(len, self._waiting.values()))
