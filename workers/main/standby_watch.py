"""Says whether the database's standby is synchronous: in the log at the start and at each change, and as a metric.

A fail-over to an asynchronous standby loses what was acknowledged last. Nothing breaks then (`timelines.py`), but a
sender believes that what he sent is there. That is the operator's to choose, and should not happen unnoticed.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.core.errors import Unavailable
from shared.metrics.replication import StandbyMetrics
from shared.storage.engine.pool import Database
from shared.storage.fleet.standbys import Durability, Standbys, get_standbys

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 10.0
_MEANING = {
    Durability.NONE: "has no standby: should it be lost, what was acknowledged is in backups only",
    Durability.ASYNCHRONOUS: "has an asynchronous standby: after a fail-over the last acknowledged writes may be gone",
    Durability.SYNCHRONOUS: "has a synchronous standby: what is acknowledged survives a fail-over",
}


class StandbyWatch:
    """leads: whether this process is the leader; the others say nothing after the start."""

    def __init__(self, database: Database, metrics: StandbyMetrics, leads: Callable[[], bool]) -> None:
        self._database = database
        self._metrics = metrics
        self._leads = leads
        self._said: Durability | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable:
                logger.debug("The state of the standbys could not be read")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Look once."""
        leads = self._leads()
        if not leads:
            self._metrics.standby.set(0)
            if self._said is not None:
                return
        found = await get_standbys(self._database)
        if leads:
            self._metrics.standby.set(found.durability)
        if found.durability is not self._said:
            self._say(found)

    def _say(self, found: Standbys) -> None:
        worse = self._said is not None and found.durability < self._said
        text = "PostgreSQL %s (connected: %d, synchronous_standby_names: '%s')"
        level = logging.WARNING if worse else logging.INFO
        logger.log(level, text, _MEANING[found.durability], found.connected, found.names)
        self._said = found.durability
