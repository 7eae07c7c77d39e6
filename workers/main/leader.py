"""What the leading main does: sees who lives and who is dead, and gives slots that nobody owns to the living.

All of its state is in Postgres, so that a new leader goes on where the old one stopped; what is kept here is only
how long something has been so. Its writes carry its lease's fence and ask whether it still leads. It is never in the
path of a message: with no leader the fleet serves as it stands.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from replication.driver import Announcer
from replication.fenced_writer import FencedWriter
from replication.fencing import fence_lease
from shared.config.sections import Fleet
from shared.config.sections import Replication as ReplicationConfig
from shared.core.slots import SLOT_KINDS, SLOTS
from shared.runtime.clock import Clock
from shared.storage.leases import TAKE_DUTY, ProcessRow, get_duty_holder, get_processes
from shared.storage.pool import Connect, Database
from shared.storage.slots import (
    ASSIGN_SLOTS,
    NAME_NEXT_OWNERS,
    WITHDRAW_NEXT_OWNERS,
    SlotRow,
    SlotSnapshot,
    get_slots,
    get_slots_version,
)
from workers.main.proxies import Proxies
from workers.main.slot_plan import assign, rebalance

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 0.25
#: How long a first start waits for as many workers as the configuration's `fleet` says before it deals out slots
#: (a slot given is moved only on purpose, and the first worker to register would get them all).
_GATHER_S = 5.0
#: How long the slots of a dead worker wait for a successor of the same name.
_HEIR_S = 1.5
#: How long the load must be uneven before slots move (several workers that start together cause one round of moves),
#: and how many slots move at a time: their requests wait meanwhile.
_UNEVEN_S = 2.0
_MOVES_AT_A_TIME = 128


class Leader:
    """in_good_standing: whether this process's own heartbeats were recorded of late; without that it judges nobody."""

    def __init__(
        self,
        database: Database,
        connect: Connect,
        writer: FencedWriter,
        announcer: Announcer,
        config: ReplicationConfig,
        fleet: Fleet,
        clock: Clock,
        in_good_standing: Callable[[], bool],
        proxies: Proxies,
    ) -> None:
        self._database = database
        self._connect = connect
        self._writer = writer
        self._announcer = announcer
        self._config = config
        self._fleet = fleet
        self._clock = clock
        self._in_good_standing = in_good_standing
        self._proxies = proxies
        self._good_since: float | None = None
        self._names: dict[int, str] = {}  # lease -> name, of every process ever seen
        self._former: dict[tuple[str, int], str] = {}  # (kind, slot) -> name of the last owner
        self._waiting_since: dict[str, float] = {}  # kind -> since when unowned slots wait
        self._asked_at: dict[tuple[str, int], float] = {}  # (kind, slot) -> when a next owner was named
        self._uneven_since: dict[str, float] = {}
        self._slots: SlotSnapshot | None = None
        self.leading = False

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """One round: become or stay the leader, fence the dead, deal out what nobody owns."""
        processes = await get_processes(self._database)
        self._names.update({p.lease: p.process for p in processes})
        if not self._judging():
            return
        await self._fence_dead(processes)
        if not await self._lead():
            return
        slots = await self._current_slots()
        living = [p for p in processes if not p.revoked and p.silent_s < self._config.dead_after_s]
        if await self._deal_out(living, slots) or await self._move(living, slots):
            slots = await self._current_slots()
        await self._proxies.follow(processes, slots)

    async def _current_slots(self) -> SlotSnapshot:
        """The slot table, read again only when its version has changed: it has 3072 rows, and we look often."""
        if self._slots is None or self._slots.version != await get_slots_version(self._database):
            self._slots = await get_slots(self._database)
        return self._slots

    def _judging(self) -> bool:
        """An outage of the database kills nobody: we judge only when we were heard through the same time."""
        now = self._clock.monotonic_s()
        if not self._in_good_standing():
            self._good_since = None
            return False
        if self._good_since is None:
            self._good_since = now
        return True

    def _judged_long_enough(self) -> bool:
        return self._good_since is not None and self._clock.monotonic_s() - self._good_since > self._config.dead_after_s

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
        if not self._judged_long_enough():
            return
        holder = await get_duty_holder(self._database, "main")
        for process in processes:
            if process.lease == self._writer.lease or process.silent_s < self._config.dead_after_s:
                continue
            # A stand-by ends a dead leader only; all others are the leader's to judge.
            if holder not in (self._writer.lease, process.lease):
                continue
            logger.warning(
                "%s (lease %d) was not heard of for %.1f s: its lease is ended",
                process.process, process.lease, process.silent_s,
            )  # fmt: skip
            conn = await self._connect()
            try:
                await fence_lease(conn, process.lease)
            finally:
                await conn.close()
            self._announcer.notice("slots")

    async def _deal_out(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Give unowned slots to the living; return whether any changed hands."""
        changed = False
        by_kind: dict[str, list[SlotRow]] = {kind: [] for kind in SLOT_KINDS}
        for row in snapshot.slots:
            by_kind[row.kind].append(row)
            if row.owner is not None and row.owner in self._names:
                self._former[row.kind, row.slot] = self._names[row.owner]
        for kind, worker_type in SLOT_KINDS.items():
            unowned = [row.slot for row in by_kind[kind] if row.owner is None]
            if not unowned:
                self._waiting_since.pop(kind, None)
                continue
            candidates = [p for p in living if p.type == worker_type and p.ready and not p.draining]
            waited = self._clock.monotonic_s() - self._waiting_since.setdefault(kind, self._clock.monotonic_s())
            if not candidates or self._should_wait(kind, worker_type, unowned, candidates, waited):
                continue
            changed = await self._give(kind, unowned, by_kind[kind], candidates) or changed
        return changed

    async def _move(self, living: Sequence[ProcessRow], snapshot: SlotSnapshot) -> bool:
        """Even the load by planned moves, and withdraw those that nobody carried out; return whether one was named."""
        now = self._clock.monotonic_s()
        named = False
        for kind, worker_type in SLOT_KINDS.items():
            rows = [row for row in snapshot.slots if row.kind == kind]
            pending = {row.slot: row.next_owner for row in rows if row.next_owner is not None}
            candidates = {p.lease for p in living if p.type == worker_type and p.ready and not p.draining}
            if pending:
                late = [
                    slot
                    for slot, heir in pending.items()
                    if heir not in candidates
                    or now - self._asked_at.setdefault((kind, slot), now) > self._config.move_limit_s
                ]
                if late:
                    logger.warning("%d moves of slots of %s are withdrawn", len(late), kind)
                    await self._writer.write(WITHDRAW_NEXT_OWNERS, kind, late)
                    self._uneven_since[kind] = now
                continue
            owned: dict[int, list[int]] = {lease: [] for lease in candidates}
            for row in rows:
                if row.owner in candidates:
                    owned[row.owner].append(row.slot)
            moves = rebalance(owned) if all(row.owner in candidates for row in rows) else {}
            if not moves:
                self._uneven_since.pop(kind, None)
                continue
            if now - self._uneven_since.setdefault(kind, now) < _UNEVEN_S:
                continue
            moves = dict(list(moves.items())[:_MOVES_AT_A_TIME])
            answer = await self._writer.write(NAME_NEXT_OWNERS, kind, list(moves), list(moves.values()))
            if answer["named"]:
                logger.info("%d slots of %s shall move to even the load", answer["named"], kind)
                self._asked_at.update({(kind, slot): now for slot in moves})
                self._announcer.notice("slots")
                named = True
        return named

    def _should_wait(
        self, kind: str, worker_type: str, unowned: Sequence[int], candidates: Sequence[ProcessRow], waited: float
    ) -> bool:
        names = {p.process for p in candidates}
        if len(unowned) == SLOTS:
            return len(candidates) < getattr(self._fleet, worker_type) and waited < _GATHER_S
        missing = {self._former.get((kind, slot)) for slot in unowned} - names - {None}
        return bool(missing) and waited < _HEIR_S

    async def _give(
        self, kind: str, unowned: Sequence[int], rows: Sequence[SlotRow], candidates: Sequence[ProcessRow]
    ) -> bool:
        owned: dict[int, int] = {}
        for row in rows:
            if row.owner is not None:
                owned[row.owner] = owned.get(row.owner, 0) + 1
        lease_of: Mapping[str, int] = {p.process: p.lease for p in candidates}
        heirs = {
            slot: lease_of[name]
            for slot in unowned
            if (name := self._former.get((kind, slot))) is not None and name in lease_of
        }
        given = assign(unowned, owned, sorted(lease_of.values()), heirs)
        answer = await self._writer.write(ASSIGN_SLOTS, kind, list(given), list(given.values()))
        if answer["leads"] == 0:
            self.leading = False
            return False
        if answer["given"]:
            logger.info("%d slots of %s given to %d processes", answer["given"], kind, len(set(given.values())))
            self._announcer.notice("slots")
        return bool(answer["given"])
