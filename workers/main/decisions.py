"""PURE: what the leader decides: who is dead, who gets which slot, which slots move. It reads no clock and no table.

Each answer is a value that `leader.py` carries out; the simulator (`tests/simulation/`) asks the same code. What is
remembered is only how long something has been so: a new leader begins without it, and is a little slower at first.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from shared.core.slots import SLOT_KINDS
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotRow
from workers.main.slot_plan import assign, rebalance

#: How long a first start waits for as many workers as the configuration's `fleet` says before it deals out slots
#: (a slot given is moved only on purpose, and the first worker to register would get them all).
_GATHER_S = 5.0
#: How long the slots of a dead worker wait for a successor of the same name.
_HEIR_S = 1.5
#: How long the load must be uneven before slots move (several workers that start together cause one round of moves),
#: and how many slots move at a time: their requests wait meanwhile.
_UNEVEN_S = 2.0
_MOVES_AT_A_TIME = 128
#: The same for those who drain: they have only their drain limit.
_HANDED_OVER_AT_A_TIME = 256


class Judgement:
    """Who is dead. dead_after_s: without a heartbeat; a judge must itself have been heard through the same time."""

    def __init__(self, dead_after_s: float) -> None:
        self._dead_after_s = dead_after_s

    def knows_long_enough(self, now_s: float, unbroken_since: float) -> bool:
        """Return whether our own heartbeats were recorded for as long as a dead process must have been silent.

        unbroken_since: when they were last held up. So an outage of the database, of any length, kills nobody.
        """
        return now_s - unbroken_since > self._dead_after_s

    def dead(self, processes: Sequence[ProcessRow], lease: int, leader: int | None) -> list[ProcessRow]:
        """Return those whose leases the judge ends. lease: the judge's own; leader: who holds the duty now.

        A stand-by ends a dead leader only; all others are the leader's to judge.
        """
        return [
            process
            for process in processes
            if process.lease != lease and not self.alive(process) and leader in (lease, process.lease)
        ]

    def alive(self, process: ProcessRow) -> bool:
        return process.silent_s < self._dead_after_s

    def living(self, processes: Sequence[ProcessRow]) -> list[ProcessRow]:
        """Return those that may be given something."""
        return [process for process in processes if not process.revoked and self.alive(process)]


@dataclass(frozen=True, slots=True)
class Gift:
    """Slots that nobody owns, to be given: slot -> lease."""

    kind: str
    owners: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class Moves:
    """Planned moves to be named: slot -> lease of the next owner. why: for the log."""

    kind: str
    owners: Mapping[int, int]
    why: str


@dataclass(frozen=True, slots=True)
class Withdrawal:
    """Planned moves that nobody carried out in time, or whose next owner is gone."""

    kind: str
    slots: Sequence[int]


class SlotDecisions:
    """fleet: worker type -> how many processes a first start waits for; move_limit_s: how long a move may take."""

    def __init__(self, fleet: Mapping[str, int], move_limit_s: float) -> None:
        self._fleet = fleet
        self._move_limit_s = move_limit_s
        self._names: dict[int, str] = {}  # lease -> name, of every process ever seen
        self._silent: set[str] = set()  # names of those that were ended for their silence, and did not come back
        self._former: dict[tuple[str, int], str] = {}  # (kind, slot) -> name of the last owner
        self._waiting_since: dict[str, float] = {}  # kind -> since when unowned slots wait
        self._asked_at: dict[tuple[str, int], float] = {}  # (kind, slot) -> when a next owner was named
        self._uneven_since: dict[str, float] = {}

    def saw(self, processes: Sequence[ProcessRow]) -> None:
        """Take in who is there; stand-bys do so too."""
        self._names.update({process.lease: process.process for process in processes})
        self._silent -= {process.process for process in processes}

    def ended(self, process: ProcessRow) -> None:
        """Take in whom the leader ended for his silence: a successor had as long to come, and is not waited for."""
        self._silent.add(process.process)

    def gifts(self, now_s: float, living: Sequence[ProcessRow], slots: Sequence[SlotRow]) -> Iterator[Gift]:
        """Yield what to give of the slots that nobody owns."""
        for row in slots:
            if row.owner is not None and row.owner in self._names:
                self._former[row.kind, row.slot] = self._names[row.owner]
        for kind, rows in _by_kind(slots).items():
            unowned = [row.slot for row in rows if row.owner is None]
            if not unowned:
                self._waiting_since.pop(kind, None)
                continue
            candidates = _candidates(kind, living)
            waited_s = now_s - self._waiting_since.setdefault(kind, now_s)
            if candidates and not self._should_wait(kind, len(rows), unowned, candidates, waited_s):
                yield Gift(kind, self._dealt(kind, unowned, rows, candidates))

    def moves(
        self, now_s: float, living: Sequence[ProcessRow], slots: Sequence[SlotRow]
    ) -> Iterator[Moves | Withdrawal]:
        """Yield planned moves, and those to take back. Answer each `Moves` that was carried out with `named`."""
        for kind, rows in _by_kind(slots).items():
            candidates = {process.lease for process in _candidates(kind, living)}
            pending = {row.slot: row.next_owner for row in rows if row.next_owner is not None}
            self._forget_asked(kind, pending)
            late = self._late(now_s, kind, pending, candidates)
            if late:
                self._uneven_since[kind] = now_s
                yield Withdrawal(kind, late)
            # Whoever drains waits for nothing else; evening the load waits until all other moves are done.
            handed_over = from_the_draining(kind, living, rows)
            if handed_over and len(pending) < _HANDED_OVER_AT_A_TIME:
                yield Moves(
                    kind, _first(handed_over, _HANDED_OVER_AT_A_TIME - len(pending)), "since their owner drains"
                )
            if pending or handed_over:
                continue
            moves = evening(kind, living, rows)
            if not moves:
                self._uneven_since.pop(kind, None)
            elif now_s - self._uneven_since.setdefault(kind, now_s) >= _UNEVEN_S:
                yield Moves(kind, _first(moves, _MOVES_AT_A_TIME), "to even the load")

    def named(self, now_s: float, moves: Moves) -> None:
        """The next owners stand in the table since now."""
        self._asked_at.update({(moves.kind, slot): now_s for slot in moves.owners})

    def _forget_asked(self, kind: str, pending: Mapping[int, int]) -> None:
        """A move that is done is timed no longer: the next one of that slot, whoever names it, begins anew."""
        for key in [key for key in self._asked_at if key[0] == kind and key[1] not in pending]:
            del self._asked_at[key]

    def _late(self, now_s: float, kind: str, pending: Mapping[int, int], candidates: set[int]) -> list[int]:
        return [
            slot
            for slot, heir in pending.items()
            if heir not in candidates or now_s - self._asked_at.setdefault((kind, slot), now_s) > self._move_limit_s
        ]

    def _should_wait(
        self, kind: str, slots: int, unowned: Sequence[int], candidates: Sequence[ProcessRow], waited_s: float
    ) -> bool:
        names = {process.process for process in candidates}
        if len(unowned) == slots:
            return len(candidates) < self._fleet[SLOT_KINDS[kind]] and waited_s < _GATHER_S
        missing = {self._former.get((kind, slot)) for slot in unowned} - names - self._silent - {None}
        return bool(missing) and waited_s < _HEIR_S

    def _dealt(
        self, kind: str, unowned: Sequence[int], rows: Sequence[SlotRow], candidates: Sequence[ProcessRow]
    ) -> dict[int, int]:
        owned: dict[int, int] = {}
        for row in rows:
            if row.owner is not None:
                owned[row.owner] = owned.get(row.owner, 0) + 1
        lease_of = {process.process: process.lease for process in candidates}
        heirs = {
            slot: lease_of[name]
            for slot in unowned
            if (name := self._former.get((kind, slot))) is not None and name in lease_of
        }
        return assign(unowned, owned, sorted(lease_of.values()), heirs)


def from_the_draining(kind: str, living: Sequence[ProcessRow], rows: Sequence[SlotRow]) -> dict[int, int]:
    """Return slot -> lease of the next owner, for each slot of a draining process for which none is named yet.

    rows: all slots of this kind. Empty while there is nobody to give them to.
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


def evening(kind: str, living: Sequence[ProcessRow], rows: Sequence[SlotRow], *, pins: bool = True) -> dict[int, int]:
    """Return slot -> lease of the next owner, of the fewest moves that even the load; empty while one lacks an owner.

    rows: all slots of this kind. pins: what an operator placed stays, and counts for nobody.
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
