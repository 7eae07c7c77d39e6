"""Report the number of parked rooms, which an operator must look at, as a metric."""

import asyncio
import logging
from collections.abc import Callable

from shared.core.errors import Unavailable
from shared.metrics.fleet import ParkedRoomsMetrics
from shared.storage.engine.pool import Database
from shared.storage.rooms.parked import count_parked_rooms

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 10.0


class ParkedRoomsWatch:
    """Counts parked rooms. leads: returns True if this process is the leader; others report none."""

    def __init__(self, database: Database, metrics: ParkedRoomsMetrics, leads: Callable[[], bool]) -> None:
        self._database = database
        self._metrics = metrics
        self._leads = leads

    async def run(self) -> None:
        while True:
            try:
                await self.check()
            except Unavailable:
                logger.debug("The parked rooms could not be counted")
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self) -> None:
        """Count the rooms once."""
        self._metrics.rooms.set(await count_parked_rooms(self._database) if self._leads() else 0)
