"""Locks by key, such as one for each user. A key that nobody uses takes no memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from shared.core.errors import Unavailable

#: Requests of one key, including the one that holds the lock. A client that sends more at once waits for answers.
MAX_PER_KEY = 500


class _Entry:
    __slots__ = ("lock", "users")

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.users = 0


class KeyedLocks:
    """Locks in one process. Tasks get the lock of a key in the order in which they asked for it."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    @asynccontextmanager
    async def hold(self, key: str) -> AsyncIterator[None]:
        """Hold the lock of a key. Raises Unavailable if too many tasks wait for it."""
        entry = self._entries.setdefault(key, _Entry())
        if entry.users >= MAX_PER_KEY:
            raise Unavailable("Too many requests change the same data at the same time")
        entry.users += 1
        try:
            async with entry.lock:
                yield
        finally:
            entry.users -= 1
            if not entry.users:
                del self._entries[key]

    def __len__(self) -> int:
        """Return the number of keys in use."""
        return len(self._entries)
