"""The job that measures the other jobs, for metrics and alerts."""

import asyncio

from shared.metrics.background import BackgroundMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.fleet.background_steps import count_set_aside, get_progress
from shared.storage.fleet.pending_work import count_overdue

_EVERY_S = 10.0
#: A piece of pending work is looked at 2, 4, 8 ... seconds after the last time: this is the number after half an hour.
_MANY_LOOKS = 9


class BackgroundWatch:
    """Every background process measures: the one that does a job may hang."""

    def __init__(self, database: Database, metrics: BackgroundMetrics, clock: Clock) -> None:
        self._database = database
        self._metrics = metrics
        self._clock = clock
        self._moved: dict[str, tuple[str, float]] = {}  # step -> its mark, and since when it has it

    async def run(self) -> None:
        """Measure every ten seconds. Runs until cancelled."""
        while True:
            await self.measure()
            await asyncio.sleep(_EVERY_S)

    async def measure(self) -> None:
        """Measure once."""
        now_s = self._clock.monotonic_s()
        for each in await get_progress(self._database):
            mark, since_s = self._moved.get(each.step, ("", now_s))
            if mark != each.mark or each.behind == 0:
                since_s = now_s
            self._moved[each.step] = each.mark, since_s
            self._metrics.behind.labels(each.step).set(each.behind)
            self._metrics.stalled_s.labels(each.step).set(now_s - since_s)
        for step, count in (await count_set_aside(self._database)).items():
            self._metrics.set_aside.labels(step).set(count)
        for work, count in (await count_overdue(self._database, _MANY_LOOKS)).items():
            self._metrics.overdue.labels(work).set(count)
