"""Turns for expensive work: a limited number at a time, and the waiting users take turns.

A user with many requests delays the requests of another user by one turn at most.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.core.identifiers import UserId


class FairTurns:
    """At most `at_once` turns at the same time."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        #: The waiting requests by user. The first user has the next turn.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()

    @asynccontextmanager
    async def turn(self, user_id: UserId) -> AsyncIterator[None]:
        """Wait for a turn and hold it while the body runs."""
        await self._take(user_id)
        try:
            yield
        finally:
            self._give()

    async def _take(self, user_id: UserId) -> None:
        if self._free and not self._waiting:
            self._free -= 1
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user_id, deque()).append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._give()  # the turn had been given to this request: pass it on
            else:
                self._forget(user_id, waiter)
            raise

    def _give(self) -> None:
        """Give the turn to the next user's oldest request. That user then goes behind all others."""
        while self._waiting:
            user_id, waiters = self._waiting.popitem(last=False)
            waiter = waiters.popleft()
            if waiters:
                self._waiting[user_id] = waiters
            if not waiter.done():
                waiter.set_result(None)
                return
        self._free += 1

    def _forget(self, user_id: UserId, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(user_id)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[user_id]

    @property
    def waiting(self) -> int:
        """The number of requests waiting for a turn."""
        return sum(map(len, self._waiting.values()))
