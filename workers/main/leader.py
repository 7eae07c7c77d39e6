"""What the leading main does: sees who lives and who is dead, and gives slots that nobody owns to the living.

What it decides is in `decisions.py` (pure); this does the I/O. All of its state is in Postgres, so that a new leader
goes on where the old one stopped. Its writes carry its lease's fence and ask whether it still leads. It is never in the
path of a message: with no leader the fleet serves as it stands.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Sequence

from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.config.sections import Fleet
from shared.config.sections import Replication as ReplicationConfig
from shared.core.slots import SLOT_KINDS
from shared.metrics.fleet import FleetNumbers
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Connect, Database
from shared.storage.fleet.leases import TAKE_DUTY, ProcessRow, fence, get_duty_holder, get_processes
from shared.storage.fleet.slots import (
    ASSIGN_SLOTS,
    NAME_NEXT_OWNERS,
    WITHDRAW_NEXT_OWNERS,
    SlotSnapshot,
    get_slots,
    get_slots_version,
)
from workers.main.decisions import Judgement, SlotDecisions, Withdrawal
from workers.main.fleet_numbers import fleet_numbers
from workers.main.proxies import Proxies

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25


class Leader:
    """unbroken_since: since when this process's own heartbeats were recorded in time; while None it does nothing."""

    def __init__(
        self,
        database: Database,
        connect: Connect,
        writer: FencedWriter,
        announcer: Announcer,
        config: ReplicationConfig,
        fleet: Fleet,
        clock: Clock,
        unbroken_since: Callable[[], float | None],
        proxies: Proxies,
    ) -> None:
        self._database = database
        self._connect = connect
        self._writer = writer
        self._announcer = announcer
        self._clock = clock
        self._unbroken_since = unbroken_since
        self._proxies = proxies
        self._judgement = Judgement(config.dead_after_s)
        self._decisions = SlotDecisions(
            {worker_type: getattr(fleet, worker_type) for worker_type in SLOT_KINDS.values()}, config.move_limit_s
        )
        self._slots: SlotSnapshot | None = None
        self.leading = False
        self._living: Sequence[ProcessRow] = ()
        self._withdrawn: Counter[str] = Counter()
        self._fenced: Counter[str] = Counter()

    def numbers(self) -> FleetNumbers:
        """Return what the last look found, for the metrics."""
        if not self.leading or self._unbroken_since() is None or self._slots is None:
            return FleetNumbers(leads=False)
        return fleet_numbers(self._living, self._slots.slots, self._withdrawn, self._fenced, self._proxies.away)

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """One round: become or stay the leader, fence the dead, deal out what nobody owns."""
        processes = await get_processes(self._database)
        self._decisions.saw(processes)
        unbroken_since = self._unbroken_since()
        if unbroken_since is None:
            return
        if self._judgement.knows_long_enough(self._clock.monotonic_s(), unbroken_since):
            await self._fence_dead(processes)
        if not await self._lead():
            return
        slots = await self._current_slots()
        living = self._living = self._judgement.living(processes)
        if await self._deal_out(living, slots) or await self._move(living, slots):
            slots = await self._current_slots()
        await self._proxies.follow(processes, slots)

    async def _current_slots(self) -> SlotSnapshot:
        """The slot table, read again only when its version has changed: it has 3072 rows, and we look often."""
        if self._slots is None or self._slots.version != await get_slots_version(self._database):
            self._slots = await get_slots(self._database)
        return self._slots

    async def _lead(self) -> bool:
        holder = await get_duty_holder(self._database, "main")
        if holder is None:
            row = await self._writer.write(TAKE_DUTY, "main")
            if row["epoch"] is not None:
                logger.info("This process leads now (epoch %d)", row["epoch"])
            holder = await get_duty_holder(self._database, "main")
        self.leading = holder == self._writer.lease
        return self.leading

    async def _fence_dead(self, processes: Sequence[ProcessRow]) -> None:
        holder = await get_duty_holder(self._database, "main")
        for process in self._judgement.dead(processes, self._writer.lease, holder):
            logger.warning(
                "%s (lease %d) was not heard of for %.1f s: its lease is ended",
                process.process, process.lease, process.silent_s,
            )  # fmt: skip
            conn = await self._connect()
            try:
                await fence(conn, process.lease)
            finally:
                await conn.close()
            self._fenced[process.type] += 1
            self._decisions.ended(process)
            self._announcer.notice("slots")

    async def _deal_out(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Give unowned slots to the living; return whether any changed hands."""
        changed = False
        for gift in self._decisions.gifts(self._clock.monotonic_s(), living, snapshot.slots):
            answer = await self._writer.write(ASSIGN_SLOTS, gift.kind, list(gift.owners), list(gift.owners.values()))
            if answer["leads"] == 0:
                self.leading = False
            elif answer["given"]:
                logger.info(
                    "%d slots of %s given to %d processes", answer["given"], gift.kind, len(set(gift.owners.values()))
                )
                self._announcer.notice("slots")
                changed = True
        return changed

    async def _move(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Name the next owners of planned moves, and withdraw those that nobody carried out; return whether one was."""
        now = self._clock.monotonic_s()
        named = False
        for step in self._decisions.moves(now, living, snapshot.slots):
            if isinstance(step, Withdrawal):
                logger.warning("%d moves of slots of %s are withdrawn", len(step.slots), step.kind)
                self._withdrawn[step.kind] += len(step.slots)
                await self._writer.write(WITHDRAW_NEXT_OWNERS, step.kind, list(step.slots))
                continue
            answer = await self._writer.write(
                NAME_NEXT_OWNERS, step.kind, list(step.owners), list(step.owners.values())
            )
            if answer["named"]:
                logger.info("%d slots of %s shall move %s", answer["named"], step.kind, step.why)
                self._decisions.named(now, step)
                self._announcer.notice("slots")
                named = True
        return named
