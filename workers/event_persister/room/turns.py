"""The turn of those who work out places in a room: one after another, and only so many may wait."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

from shared.core.errors import Unavailable

#: deliveries: of other servers' events, each with up to 32 MiB; who sends them keeps them and asks again.
#: sends: of our own users' events.
_LIMITS = {"deliveries": 20, "sends": 500}


class PlacementTurns:
    """Of one room."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting = dict.fromkeys(_LIMITS, 0)

    @asynccontextmanager
    async def take(self, of: Literal["deliveries", "sends"]) -> AsyncIterator[None]:
        """Wait for the turn. Raises Unavailable when too many wait already, the one who has it included."""
        if self._waiting[of] >= _LIMITS[of]:
            raise Unavailable("Too many wait to write into this room")
        self._waiting[of] += 1
        try:
            async with self._lock:
                yield
        finally:
            self._waiting[of] -= 1
