"""Detect stalled streams: compare the rows of each writer in Postgres with its ticks.

Readers work without this probe: they read the rows of a silent writer from Postgres, only later. So the result is a
metric and a log line, for operators. Ticks are enough, since they hold the last position of their writer on each
channel. They show a row that was stored and never announced, and a writer whose messages do not arrive. Each reader
counts lost frames itself (`skep_replication_gaps_total`).
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from replication.bus.wire import Tick
from replication.streams import STREAMS, Kind
from replication.streams.follower import Follower
from shared.core.errors import Unavailable
from shared.metrics.replication import ProbeMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import ProcessRow, get_processes
from shared.storage.streams.ends import get_stored_positions

logger = logging.getLogger(__name__)

COMPARE_EVERY_S = 2.0
STALLED_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of a writer. reached: "complete up to". last: the position of the last row."""

    reached: int = 0
    last: int = 0

    def behind(self, other: "Progress") -> bool:
        return self.reached < other.reached or self.last < other.last

    def joined(self, other: "Progress") -> "Progress":
        return Progress(max(self.reached, other.reached), max(self.last, other.last))


_NOTHING = Progress()


class Comparison:
    """PURE: finds the writers of one stream that have been behind on the bus for `STALLED_AFTER_S`."""

    def __init__(self) -> None:
        self._announced: dict[int, Progress] = {}
        self._stored: dict[int, Progress] = {}
        self._behind: dict[int, tuple[float, Progress]] = {}  # since when, and the progress that is missing

    def announced(self, writer: int, progress: Progress) -> None:
        self._announced[writer] = progress.joined(self._announced.get(writer, _NOTHING))

    def compare(self, now_s: float, stored: Mapping[int, Progress]) -> dict[int, tuple[Progress, Progress]]:
        """Return the stalled writers: writer -> (stored, announced). stored: of every living writer in Postgres."""
        self._stored = {w: progress.joined(self._stored.get(w, _NOTHING)) for w, progress in stored.items()}
        self._announced = {w: progress for w, progress in self._announced.items() if w in stored}
        stalled = {}
        for writer, progress in self._stored.items():
            announced = self._announced.get(writer, _NOTHING)
            since_s, wanted = self._behind.get(writer, (now_s, progress))
            if not announced.behind(wanted):
                since_s, wanted = now_s, progress
            if not announced.behind(wanted):
                self._behind.pop(writer, None)
                continue
            self._behind[writer] = since_s, wanted
            if now_s - since_s >= STALLED_AFTER_S:
                stalled[writer] = progress, announced
        self._behind = {w: each for w, each in self._behind.items() if w in stored}
        return stalled

    def reset(self) -> None:
        """Forget the stored progress: another process leads, and it is old."""
        self._stored.clear()
        self._behind.clear()


class StreamProbe:
    """Probes all streams. leads: returns True if this process is the leader; other processes only listen."""

    def __init__(
        self, database: Database, follower: Follower, clock: Clock, metrics: ProbeMetrics, leads: Callable[[], bool]
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._leads = leads
        self._comparisons = {name: Comparison() for name in STREAMS}
        self._above: dict[str, int] = {}  # rows at or below were compared
        self._stalled: set[str] = set()
        follower.on_tick(self._record)

    async def run(self) -> None:
        while True:
            try:
                await self.compare()
            except Unavailable:
                logger.debug("The probe of the streams could not read the database")
            await asyncio.sleep(COMPARE_EVERY_S)

    async def compare(self) -> None:
        """Compare once."""
        if not self._leads():
            for name, comparison in self._comparisons.items():
                comparison.reset()
                self._report(name, {})
            self._above.clear()
            return
        processes = await get_processes(self._database)
        for name, comparison in self._comparisons.items():
            stored = await self._stored(name, processes)
            self._report(name, comparison.compare(self._clock.monotonic_s(), stored))

    def _record(self, tick: Tick) -> None:
        for name, progress in tick.progress.items():
            if name in self._comparisons:
                last = max(progress.last.values(), default=0)
                self._comparisons[name].announced(tick.writer, Progress(progress.complete_up_to, last))

    async def _stored(self, name: str, processes: Sequence[ProcessRow]) -> dict[int, Progress]:
        reached = {each.lease: each.positions[name] for each in processes if name in each.positions}
        rows: Mapping[int, int] = {}
        if reached and STREAMS[name].kind is not Kind.EPHEMERAL:
            # A writer stores nothing below its "complete up to", so all later rows are above the least of these.
            least = min(reached.values())
            rows = await get_stored_positions(self._database, name, self._above.get(name, least))
            self._above[name] = least
        return {writer: Progress(position, rows.get(writer, 0)) for writer, position in reached.items()}

    def _report(self, name: str, stalled: Mapping[int, tuple[Progress, Progress]]) -> None:
        self._metrics.stalled.labels(name).set(len(stalled))
        if stalled and name not in self._stalled:
            self._stalled.add(name)
            writers = (
                f"writer {writer}: stored {progress.last}, announced {announced.last}, complete {progress.reached}, "
                f"announced {announced.reached}"
                for writer, (progress, announced) in sorted(stalled.items())
            )
            logger.error("The stream %s is stalled on the bus, not in the database: %s", name, "; ".join(writers))
        elif not stalled and name in self._stalled:
            self._stalled.discard(name)
            logger.info("The stream %s moves again on the bus", name)
