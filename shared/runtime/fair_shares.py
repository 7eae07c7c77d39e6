"""Shares of scarce work: a limited number of places, a limited number of them for each user, and fair turns.

Everything that is scarce is shared in this way: searches, large answers, long polls, password hashes. So one user's
requests delay those of another user by one turn at most, however many they are.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.core.errors import limit_exceeded

#: The wait that a refused client is told.
_RETRY_AFTER_S = 2.0


class FairShares:
    """The places for one kind of work.

    what: the work in words, in the plural, for error messages.
    places: of all users together.
    per_user: the places that one user may hold; None: all.
    waiting_per_user: the requests of one user that may wait for a place; None: any number.
    patience_s: the longest wait for a place; None: no limit.
    """

    def __init__(
        self,
        what: str,
        places: int,
        *,
        per_user: int | None = None,
        waiting_per_user: int | None = None,
        patience_s: float | None = None,
    ) -> None:
        self._what = what
        self._free = places
        self._per_user = places if per_user is None else per_user
        self._waiting_per_user = waiting_per_user
        self._patience_s = patience_s
        self._held: dict[str, int] = {}
        #: The waiting requests by user. The first user below their share has the next turn.
        self._waiting: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        #: Requests refused since the start.
        self.refused = 0

    @asynccontextmanager
    async def place(self, user: str) -> AsyncIterator[None]:
        """Wait for a place and hold it while the body runs. Raises as `take` does."""
        await self.take(user)
        try:
            yield
        finally:
            self.give(user)

    async def take(self, user: str) -> None:
        """Wait for a place. Raises M_LIMIT_EXCEEDED if too many requests of the user wait, or for too long."""
        # While a place is free, those who wait have their whole share.
        if self._free and user not in self._waiting and self._held.get(user, 0) < self._per_user:
            self._hold(user)
            return
        waiters = self._waiting.get(user)
        if self._waiting_per_user is not None and (len(waiters) if waiters else 0) >= self._waiting_per_user:
            raise self._refusal()
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(user, deque()).append(waiter)
        try:
            async with asyncio.timeout(self._patience_s):
                await waiter
        except BaseException as error:
            if waiter.done() and not waiter.cancelled():
                self.give(user)  # the place had been given to this request: pass it on
            else:
                self._forget(user, waiter)
            if isinstance(error, TimeoutError):
                raise self._refusal() from None
            raise

    def give(self, user: str) -> None:
        """Give a place back. It goes to the next user's oldest request. That user then goes behind all others."""
        self._free += 1
        if self._held[user] == 1:
            del self._held[user]
        else:
            self._held[user] -= 1
        while self._free:
            next_user = next((one for one in self._waiting if self._held.get(one, 0) < self._per_user), None)
            if next_user is None:
                return
            waiters = self._waiting.pop(next_user)
            waiter = waiters.popleft()
            if waiters:
                self._waiting[next_user] = waiters
            if not waiter.done():
                self._hold(next_user)
                waiter.set_result(None)

    @property
    def waiting(self) -> int:
        """The number of requests that wait for a place."""
        return sum(map(len, self._waiting.values()))

    @property
    def held(self) -> int:
        """The number of places in use."""
        return sum(self._held.values())

    def _hold(self, user: str) -> None:
        self._free -= 1
        self._held[user] = self._held.get(user, 0) + 1

    def _forget(self, user: str, waiter: "asyncio.Future[None]") -> None:
        waiters = self._waiting.get(user)
        if waiters is not None and waiter in waiters:
            waiters.remove(waiter)
            if not waiters:
                del self._waiting[user]

    def _refusal(self) -> Exception:
        self.refused += 1
        return limit_exceeded(_RETRY_AFTER_S, f"Too many {self._what} at the same time. Wait for the earlier ones")
