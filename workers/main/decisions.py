"""PURE: the leader's decisions: which processes are dead, which process gets a slot, which slots move.

Nothing here reads a clock or a table. Each decision is a value that `leader.py` carries out; the simulator
(`tests/simulation/`) uses the same code. The only memory is how long a condition has lasted. A new leader begins
without it, and is a little slower at first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.core.slots import SLOT_KINDS
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.pulses import Pulses
from shared.storage.fleet.slots import SlotRow
from workers.main.slot_plan import assign, rebalance

#: The first start waits this long for the number of workers in the configuration's `fleet` before it assigns slots.
#: Otherwise the first worker to register would get them all, and they would have to move.
_FIRST_START_S = 5.0
#: The slots of a dead worker wait this long for a process with the same name.
_SAME_NAME_S = 1.5
#: The load must be uneven for this long before slots move, so that workers that start together cause one round of
#: moves.
_UNEVEN_S = 2.0
#: The number of slots that move at a time. Their requests wait meanwhile.
_MOVES_AT_A_TIME = 128
#: The same for a draining process, which has only its drain limit.
_DRAINED_AT_A_TIME = 256


class Judgement:
    """Decides which processes are dead: those whose heartbeat does not change for too long, by the judge's own clock.

    dead_after_s: the time without a heartbeat. The heartbeats of the judging process must have come through that time.
    """

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s
        self._pulses = Pulses()

    def saw(self, processes: Sequence[ProcessRow], began_s: float, ended_s: float) -> None:
        """Take in the processes, as `Pulses.saw` does. Stand-bys do so too."""
        self._pulses.saw(processes, began_s, ended_s)

    def knows_long_enough(self, now_s: float, unbroken_since: float) -> bool:
        """Return whether our own heartbeats were recorded for as long as a dead process must have been silent.

        So an outage of the database, of any length, kills no process.
        unbroken_since: the time since which each of our heartbeats was recorded in time.
        """
        return now_s - unbroken_since > self._dead_after_s

    def dead(self, processes: Sequence[ProcessRow], lease: int, leader: int | None) -> list[ProcessRow]:
        """Return the processes to fence. A stand-by fences a dead leader only, the leader fences all others.

        lease: our own.
        leader: the lease of the leader.
        """
        return [
            process
            for process in processes
            if process.lease != lease and not self.alive(process) and leader in (lease, process.lease)
        ]

    def silent_s(self, process: ProcessRow) -> float:
        return self._pulses.silent_s(process)

    def alive(self, process: ProcessRow) -> bool:
        return self.silent_s(process) < self._dead_after_s

    def living(self, processes: Sequence[ProcessRow]) -> list[ProcessRow]:
        """Return the processes that can get slots and requests."""
        return [process for process in processes if not process.revoked and self.alive(process)]


@dataclass(frozen=True, slots=True)
class Assignment:
    """Slots without an owner to assign. owners: slot -> lease."""

    kind: str
    owners: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Moves:
    """Planned moves to begin. owners: slot -> lease of the next owner. why: for the log."""

    kind: str
    owners: Mapping[int, int]
    why: str


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Planned moves to cancel: they were not carried out in time, or the next owner is gone."""

    kind: str
    slots: Sequence[int]


class SlotDecisions:
    """Decides about slots.

    fleet: the number of processes of each worker type for which the first start waits.
    move_limit_s: the longest time for a move.
    """

    def __init__(self, fleet: Mapping[str, int], move_limit_s: float) -> None:
        self._fleet = fleet
        self._move_limit_s = move_limit_s
        self._names: dict[int, str] = {}  # lease -> name, of every process ever seen
        self._silent: set[str] = set()  # names of processes that were fenced for silence and did not come back
        self._last_owner: dict[tuple[str, int], str] = {}  # (kind, slot) -> name of the last owner
        self._unowned_since: dict[str, float] = {}  # by kind
        self._moving_since: dict[tuple[str, int], float] = {}  # (kind, slot) -> when its next owner was named
        self._uneven_since: dict[str, float] = {}  # by kind

    def saw(self, processes: Sequence[ProcessRow]) -> None:
        """Take in the processes. Stand-bys do so too."""
        self._names.update({process.lease: process.process for process in processes})
        self._silent -= {process.process for process in processes}

    def fenced(self, process: ProcessRow) -> None:
        """Take in a process that the leader fenced. A process with the same name had enough time to come."""
        self._silent.add(process.process)

    def assignments(self, now_s: float, living: Sequence[ProcessRow], slots: Sequence[SlotRow]) -> Iterator[Assignment]:
        """Yield assignments of slots without an owner."""
        for row in slots:
            if row.owner is not None and row.owner in self._names:
                self._last_owner[row.kind, row.slot] = self._names[row.owner]
        for kind, rows in _by_kind(slots).items():
            unowned = [row.slot for row in rows if row.owner is None]
            if not unowned:
                self._unowned_since.pop(kind, None)
                continue
            candidates = _candidates(kind, living)
            waited_s = now_s - self._unowned_since.setdefault(kind, now_s)
            if candidates and not self._should_wait(kind, len(rows), unowned, candidates, waited_s):
                yield Assignment(kind, self._assigned(kind, unowned, rows, candidates))

    def moves(
        self, now_s: float, living: Sequence[ProcessRow], slots: Sequence[SlotRow]
    ) -> Iterator[Moves | Withdrawal]:
        """Yield moves to begin and moves to cancel. Call `begun` after each `Moves` that was written."""
        for kind, rows in _by_kind(slots).items():
            candidates = {process.lease for process in _candidates(kind, living)}
            pending = {row.slot: row.next_owner for row in rows if row.next_owner is not None}
            self._forget_finished(kind, pending)
            late = self._late(now_s, kind, pending, candidates)
            if late:
                self._uneven_since[kind] = now_s
                yield Withdrawal(kind, late)
            # A draining process waits for nothing else. Evening the load waits until all other moves are done.
            drained = moves_from_draining(kind, living, rows)
            if drained and len(pending) < _DRAINED_AT_A_TIME:
                yield Moves(kind, _first(drained, _DRAINED_AT_A_TIME - len(pending)), "since their owner drains")
            if pending or drained:
                continue
            moves = evening_moves(kind, living, rows)
            if not moves:
                self._uneven_since.pop(kind, None)
            elif now_s - self._uneven_since.setdefault(kind, now_s) >= _UNEVEN_S:
                yield Moves(kind, _first(moves, _MOVES_AT_A_TIME), "to even the load")

    def begun(self, now_s: float, moves: Moves) -> None:
        """Note the time from which the next owners are in the table."""
        self._moving_since.update({(moves.kind, slot): now_s for slot in moves.owners})

    def _forget_finished(self, kind: str, pending: Mapping[int, int]) -> None:
        """Stop timing moves that are done. The next move of the slot starts from zero."""
        for key in [key for key in self._moving_since if key[0] == kind and key[1] not in pending]:
            del self._moving_since[key]

    def _late(self, now_s: float, kind: str, pending: Mapping[int, int], candidates: set[int]) -> list[int]:
        return [
            slot
            for slot, next_owner in pending.items()
            if next_owner not in candidates
            or now_s - self._moving_since.setdefault((kind, slot), now_s) > self._move_limit_s
        ]

    def _should_wait(
        self, kind: str, slots: int, unowned: Sequence[int], candidates: Sequence[ProcessRow], waited_s: float
    ) -> bool:
        names = {process.process for process in candidates}
        if len(unowned) == slots:
            return len(candidates) < self._fleet[SLOT_KINDS[kind]] and waited_s < _FIRST_START_S
        missing = {self._last_owner.get((kind, slot)) for slot in unowned} - names - self._silent - {None}
        return bool(missing) and waited_s < _SAME_NAME_S

    def _assigned(
        self, kind: str, unowned: Sequence[int], rows: Sequence[SlotRow], candidates: Sequence[ProcessRow]
    ) -> dict[int, int]:
        owned: dict[int, int] = {}
        for row in rows:
            if row.owner is not None:
                owned[row.owner] = owned.get(row.owner, 0) + 1
        lease_of = {process.process: process.lease for process in candidates}
        same_name = {
            slot: lease_of[name]
            for slot in unowned
            if (name := self._last_owner.get((kind, slot))) is not None and name in lease_of
        }
        return assign(unowned, owned, sorted(lease_of.values()), same_name)


def moves_from_draining(kind: str, living: Sequence[ProcessRow], rows: Sequence[SlotRow]) -> dict[int, int]:
    """Return slot -> lease of the next owner, for each slot of a draining process without a next owner.

    rows: all slots of this kind. The result is empty while no process can take them.
    """
    draining = {process.lease for process in living if process.draining}
    leaving = [row.slot for row in rows if row.owner in draining and row.next_owner is None]
    if not leaving:
        return {}
    load: dict[int, int] = {}
    for row in rows:
        holder = row.next_owner or row.owner
        if holder is not None:
            load[holder] = load.get(holder, 0) + 1
    return assign(leaving, load, sorted(process.lease for process in _candidates(kind, living)))


def evening_moves(
    kind: str, living: Sequence[ProcessRow], rows: Sequence[SlotRow], *, pins: bool = True
) -> dict[int, int]:
    """Return slot -> lease of the next owner, for the fewest moves that even the load.

    The result is empty while a slot has no owner.
    rows: all slots of this kind.
    pins: True if slots that an operator pinned stay. They count for no process.
    """
    owned: dict[int, list[int]] = {process.lease: [] for process in _candidates(kind, living)}
    if not all(row.owner in owned for row in rows):
        return {}
    for row in rows:
        if row.owner is not None and not (pins and row.pinned):
            owned[row.owner].append(row.slot)
    return rebalance(owned)


def _first(moves: Mapping[int, int], count: int) -> dict[int, int]:
    return dict(list(moves.items())[:count])


def _by_kind(slots: Sequence[SlotRow]) -> dict[str, list[SlotRow]]:
    by_kind: dict[str, list[SlotRow]] = {kind: [] for kind in SLOT_KINDS}
    for row in slots:
        by_kind[row.kind].append(row)
    return by_kind


def _candidates(kind: str, living: Sequence[ProcessRow]) -> list[ProcessRow]:
    return [p for p in living if p.type == SLOT_KINDS[kind] and p.ready and not p.draining]
