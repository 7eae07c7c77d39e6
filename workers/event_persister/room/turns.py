"""Turns for finding places in a room: one task after another, with a limit on those that wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from shared.core.errors import Unavailable

#: deliveries: of events of other servers, each with up to 32 MiB. The sender keeps them and tries again.
#: sends: of events of our own users.
_LIMITS = {"deliveries": 20, "sends": 500}


class PlacementTurns:
    """The turns of one room."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = dict.fromkeys(_LIMITS, 0)

    @asynccontextmanager
    async def take(self, of: Literal["deliveries", "sends"]) -> AsyncIterator[None]:
        """Wait for a turn. Raises Unavailable if too many wait already, including the one that has it."""
        if self._waiting[of] >= _LIMITS[of]:
            raise Unavailable("Too many requests wait to write into this room. Try again later")
        self._waiting[of] += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting[of] -= 1
