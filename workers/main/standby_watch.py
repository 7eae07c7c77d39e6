"""Report the database's standby: in the log at the start and at each change, and as a metric.

A fail-over to an asynchronous standby loses the last acknowledged writes. Nothing breaks then
(`shared/storage/engine/lost_commits.py`), but senders believe that their events were stored. That is the operator's
choice, and should not happen unnoticed.
"""

import asyncio
import logging
from collections.abc import Callable

from shared.core.errors import Unavailable
from shared.metrics.replication import StandbyMetrics
from shared.storage.engine.pool import Database
from shared.storage.fleet.standbys import Durability, Standbys, get_standbys

logger = logging.getLogger(__name__)

CHECK_EVERY_S = 10.0
_MEANING = {
    Durability.NONE: "has no standby: if it is lost, acknowledged writes are in backups only",
    Durability.ASYNCHRONOUS: "has an asynchronous standby: after a fail-over the last acknowledged writes may be gone",
    Durability.SYNCHRONOUS: "has a synchronous standby: acknowledged writes survive a fail-over",
}


class StandbyWatch:
    """Watches the standbys. leads: returns True if this process is the leader; others log at the start only."""

    def __init__(self, database: Database, metrics: StandbyMetrics, leads: Callable[[], bool]) -> None:
        self._database = database
        self._metrics = metrics
        self._leads = leads
        self._reported: Durability | None = None

    async def run(self) -> None:
        while True:
            try:
                await self.check()
            except Unavailable:
                logger.debug("The state of the standbys could not be read")
            await asyncio.sleep(CHECK_EVERY_S)

    async def check(self) -> None:
        """Check the standbys once."""
        leads = self._leads()
        if not leads:
            self._metrics.standby.set(0)
            if self._reported is not None:
                return
        found = await get_standbys(self._database)
        if leads:
            self._metrics.standby.set(found.durability)
        if found.durability is not self._reported:
            self._report(found)

    def _report(self, found: Standbys) -> None:
        worse = self._reported is not None and found.durability < self._reported
        text = "PostgreSQL %s (connected: %d, synchronous_standby_names: '%s')"
        level = logging.WARNING if worse else logging.INFO
        logger.log(level, text, _MEANING[found.durability], found.connected, found.names)
        self._reported = found.durability
