"""The leading main: it fences dead processes, assigns slots, moves them and configures haproxy.

The decisions are in `decisions.py` (pure). This module does the I/O. All state is in Postgres, so a new leader
continues where the old one stopped. Its writes carry its lease's fence and check that it still leads. It is never in
the path of a message: without a leader the fleet serves as it stands.
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
from shared.storage.fleet.leases import TAKE_DUTY, ProcessRow, TakeDuty, fence, get_duty_holder, get_processes
from shared.storage.fleet.slots import (
    ASSIGN_SLOTS,
    NAME_NEXT_OWNERS,
    WITHDRAW_NEXT_OWNERS,
    AssignSlots,
    NameNextOwners,
    SlotOwners,
    SlotSnapshot,
    WithdrawNextOwners,
    get_slots,
    get_slots_version,
)
from workers.main.decisions import Judgement, SlotDecisions, Withdrawal
from workers.main.fleet_numbers import fleet_numbers
from workers.main.proxies import Proxies

logger = logging.getLogger(__name__)

_ROUND_EVERY_S = 0.25


class Leader:
    """The leader, or a stand-by.

    unbroken_since: returns the time since which this process's own heartbeats were recorded in time. While it is None,
        the process does nothing.
    """

    def __init__(
        self,
        *,
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
        """Return the numbers of the last round, for the metrics."""
        if not self.leading or self._unbroken_since() is None or self._slots is None:
            return FleetNumbers(leads=False)
        return fleet_numbers(self._living, self._slots.slots, self._withdrawn, self._fenced, self._proxies.away)

    async def run(self) -> None:
        while True:
            await self.run_once()
            await asyncio.sleep(_ROUND_EVERY_S)

    async def run_once(self) -> None:
        """Do one round: become or stay the leader, fence the dead, assign and move slots."""
        began_s = self._clock.monotonic_s()
        processes = await get_processes(self._database)
        self._judgement.saw(processes, began_s, self._clock.monotonic_s())
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
        if await self._assign(living, slots) or await self._move(living, slots):
            slots = await self._current_slots()
        await self._proxies.follow(processes, slots)

    async def _current_slots(self) -> SlotSnapshot:
        """Return the slot table. It has 3072 rows, and is read only when its version has changed."""
        if self._slots is None or self._slots.version != await get_slots_version(self._database):
            self._slots = await get_slots(self._database)
        return self._slots

    async def _lead(self) -> bool:
        holder = await get_duty_holder(self._database, "main")
        if holder is None:
            row = await self._writer.write(TAKE_DUTY, TakeDuty(duty="main"))
            if row["epoch"] is not None:
                logger.info("This process leads now (epoch %d)", row["epoch"])
            holder = await get_duty_holder(self._database, "main")
        self.leading = holder == self._writer.lease
        return self.leading

    async def _fence_dead(self, processes: Sequence[ProcessRow]) -> None:
        holder = await get_duty_holder(self._database, "main")
        for process in self._judgement.dead(processes, self._writer.lease, holder):
            silent = "%s (lease %d) had no heartbeat for %.1f s. Fencing it"
            logger.warning(silent, process.process, process.lease, self._judgement.silent_s(process))
            conn = await self._connect()
            try:
                await fence(conn, process.lease)
            finally:
                await conn.close()
            self._fenced[process.type] += 1
            self._decisions.fenced(process)
            self._announcer.notice("slots")

    async def _assign(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Assign slots without an owner. Return whether any got one."""
        changed = False
        for step in self._decisions.assignments(self._clock.monotonic_s(), living, snapshot.slots):
            answer = await self._writer.write(
                ASSIGN_SLOTS, AssignSlots(kind=step.kind, owners=SlotOwners.of(step.owners))
            )
            if answer["leads"] == 0:
                self.leading = False
            elif answer["given"]:
                count = len(set(step.owners.values()))
                logger.info("%d slots of %s given to %d processes", answer["given"], step.kind, count)
                self._announcer.notice("slots")
                changed = True
        return changed

    async def _move(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Begin planned moves and cancel late ones. Return whether any move began."""
        now = self._clock.monotonic_s()
        begun = False
        for step in self._decisions.moves(now, living, snapshot.slots):
            if isinstance(step, Withdrawal):
                logger.warning("%d moves of slots of %s are cancelled", len(step.slots), step.kind)
                self._withdrawn[step.kind] += len(step.slots)
                record = WithdrawNextOwners(kind=step.kind, slots=list(step.slots))
                await self._writer.write(WITHDRAW_NEXT_OWNERS, record)
                continue
            answer = await self._writer.write(
                NAME_NEXT_OWNERS, NameNextOwners(kind=step.kind, next_owners=SlotOwners.of(step.owners))
            )
            if answer["named"]:
                logger.info("%d slots of %s begin to move %s", answer["named"], step.kind, step.why)
                self._decisions.begun(now, step)
                self._announcer.notice("slots")
                begun = True
        return begun
