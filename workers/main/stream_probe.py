"""Notices "the database moved and the stream did not": what Postgres has of each writer against what the bus brought.

Readers would go on without it: a silent writer is read from Postgres, only later. So it is a metric and a log line, for
people. Ticks are enough to listen to: they say what their writer last put on each channel, so a row that was stored and
never announced shows, and so does a writer that cannot be heard. A frame that was lost on its way is each reader's to
see, who counts it (`skep_replication_gaps_total`).
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

LOOK_EVERY_S = 2.0
STALLED_AFTER_S = 3.0


@dataclass(frozen=True, slots=True)
class Place:
    """reached: "complete up to"; last: the last row."""

    reached: int = 0
    last: int = 0

    def behind(self, other: "Place") -> bool:
        return self.reached < other.reached or self.last < other.last

    def joined(self, other: "Place") -> "Place":
        return Place(max(self.reached, other.reached), max(self.last, other.last))


_NOWHERE = Place()


class Comparison:
    """PURE: which writers of one stream have been behind on the bus for `STALLED_AFTER_S`."""

    def __init__(self) -> None:
        self._heard: dict[int, Place] = {}
        self._stored: dict[int, Place] = {}
        self._behind: dict[int, tuple[float, Place]] = {}  # since when, and what is to be heard

    def heard(self, writer: int, place: Place) -> None:
        self._heard[writer] = place.joined(self._heard.get(writer, _NOWHERE))

    def look(self, now_s: float, stored: Mapping[int, Place]) -> dict[int, tuple[Place, Place]]:
        """Return the stalled: writer -> (stored, heard). stored: what Postgres has, of every living writer."""
        self._stored = {w: place.joined(self._stored.get(w, _NOWHERE)) for w, place in stored.items()}
        self._heard = {w: place for w, place in self._heard.items() if w in stored}
        stalled = {}
        for writer, place in self._stored.items():
            heard = self._heard.get(writer, _NOWHERE)
            since_s, wanted = self._behind.get(writer, (now_s, place))
            if not heard.behind(wanted):
                since_s, wanted = now_s, place
            if not heard.behind(wanted):
                self._behind.pop(writer, None)
                continue
            self._behind[writer] = since_s, wanted
            if now_s - since_s >= STALLED_AFTER_S:
                stalled[writer] = place, heard
        self._behind = {w: each for w, each in self._behind.items() if w in stored}
        return stalled

    def reset(self) -> None:
        """Somebody else leads: what was seen is old."""
        self._stored.clear()
        self._behind.clear()


class StreamProbe:
    """leads: whether this process is the leader; the others listen, and say nothing."""

    def __init__(
        self, database: Database, follower: Follower, clock: Clock, metrics: ProbeMetrics, leads: Callable[[], bool]
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._leads = leads
        self._comparisons = {name: Comparison() for name in STREAMS}
        self._above: dict[str, int] = {}  # rows at or below were looked at
        self._stalled: set[str] = set()
        follower.on_tick(self._hear)

    async def run(self) -> None:
        while True:
            try:
                await self.look()
            except Unavailable:
                logger.debug("The probe of the streams could not read the database")
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
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
            self._report(name, comparison.look(self._clock.monotonic_s(), stored))

    def _hear(self, tick: Tick) -> None:
        for name, progress in tick.progress.items():
            if name in self._comparisons:
                last = max(progress.last.values(), default=0)
                self._comparisons[name].heard(tick.writer, Place(progress.complete_up_to, last))

    async def _stored(self, name: str, processes: Sequence[ProcessRow]) -> dict[int, Place]:
        reached = {each.lease: each.positions[name] for each in processes if name in each.positions}
        rows: Mapping[int, int] = {}
        if reached and STREAMS[name].kind is not Kind.EPHEMERAL:
            # Below what a writer calls complete it stores nothing any more: all later rows are above the least of it.
            least = min(reached.values())
            rows = await get_stored_positions(self._database, name, self._above.get(name, least))
            self._above[name] = least
        return {writer: Place(position, rows.get(writer, 0)) for writer, position in reached.items()}

    def _report(self, name: str, stalled: Mapping[int, tuple[Place, Place]]) -> None:
        self._metrics.stalled.labels(name).set(len(stalled))
        if stalled and name not in self._stalled:
            self._stalled.add(name)
            logger.error(
                "The stream %s stands still on the bus, not in the database: %s", name,
                "; ".join(
                    f"writer {writer}: stored {place.last}, heard {heard.last}, complete {place.reached}, "
                    f"heard {heard.reached}" for writer, (place, heard) in sorted(stalled.items())
                ),
            )  # fmt: skip
        elif not stalled and name in self._stalled:
            self._stalled.discard(name)
            logger.info("The stream %s moves again on the bus", name)
