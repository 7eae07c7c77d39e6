"""Draining with the world around it, as plain data: the staged PDUs, the owners of rooms, and other servers."""

import random
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from shared.core.federation.draining import Draining
from shared.core.federation.draining_records import (
    Answered,
    Deliver,
    DrainEvent,
    DrainLimits,
    Fetch,
    Fetched,
    FindRooms,
    Outcome,
    ReadRoom,
    RoomGone,
    RoomRead,
    RoomsFound,
    RoomsMayWait,
    Staged,
    StagedPdu,
    WriteOutcomes,
    Written,
)
from shared.core.federation.wake_up import TimePassed, WakeAt
from shared.core.identifiers import EventId, ServerName


@dataclass(kw_only=True)
class Row:
    pdu: StagedPdu
    next_try_ms: int = 0
    first_failed_ms: int | None = None


class DrainWorld:
    """One process and its surroundings. `now_ms` is the clock."""

    def __init__(self, limits: DrainLimits) -> None:
        self.limits = limits
        self.now_ms = 1_000_000
        self.rows: dict[int, Row] = {}
        self.position = 0
        self.staged: dict[int, StagedPdu] = {}
        self.finals: Counter[int] = Counter()
        self.deliveries: dict[int, Deliver] = {}
        self.fetches: dict[int, Fetch] = {}
        self.started: list[Deliver] = []
        self.fetched: list[Fetch] = []
        self.writes: list[WriteOutcomes] = []
        self.reads: list[RoomRead] = []
        self.finds: list[FindRooms] = []
        self.wake_at_ms: int | None = None
        self.cancelled: set[int] = set()
        self.restart()

    def restart(self) -> None:
        """Begin again from the rows. What was under way has no effect, or is done again."""
        self.draining = Draining(self.limits)
        self.deliveries, self.fetches, self.writes, self.reads, self.finds = {}, {}, [], [], []
        self.wake_at_ms = None
        self.cancelled = set()
        self.step(RoomsMayWait())

    def slot_goes_and_comes_back(self, room: int) -> None:
        """Give a room away, and take it back before what is under way has ended."""
        self.step(RoomGone(room=room))
        self.reads = [read for read in self.reads if read.room != room]
        self.writes = [write for write in self.writes if write.room != room]
        self.cancelled.update(number for number, one in self.deliveries.items() if one.room == room)
        self.cancelled.update(number for number, one in self.fetches.items() if one.room == room)
        self.step(RoomsMayWait())

    def stage(self, room: int, origin: str = "a", *, count: int = 1, cost: int = 2_000, history: bool = False) -> None:
        pdus = []
        for _ in range(count):
            self.position += 1
            pdu = StagedPdu(
                room=room,
                position=self.position,
                event_id=EventId(f"${self.position}"),
                origin=ServerName(origin),
                cost=cost,
                is_history=history,
            )
            self.rows[self.position] = Row(pdu=pdu)
            self.staged[self.position] = pdu
            pdus.append(pdu)
        self.step(Staged(room=room, pdus=pdus))

    def step(self, event: DrainEvent) -> None:
        for action in self.draining.step(event, self.now_ms):
            match action:
                case Deliver():
                    assert action.positions
                    assert len(action.positions) <= self.limits.batch
                    self.deliveries[action.delivery] = action
                    self.started.append(action)
                case Fetch():
                    self.fetches[action.fetch] = action
                    self.fetched.append(action)
                case WriteOutcomes():
                    self.writes.append(action)
                case ReadRoom():
                    self.reads.append(self.page(action))
                case FindRooms():
                    self.finds.append(action)
                case WakeAt():
                    self.wake_at_ms = action.at_ms
        self.check_bounds()

    def check_bounds(self) -> None:
        limits = self.limits
        assert len(self.deliveries) <= limits.places + limits.slow_places
        assert len(self.fetches) <= limits.fetches
        peers: Counter[ServerName] = Counter()
        history = 0
        for delivery in self.deliveries.values():
            pdus = [self.staged[position] for position in delivery.positions]
            peers.update({pdu.origin for pdu in pdus})
            history += all(pdu.is_history for pdu in pdus)
        assert max(peers.values(), default=0) <= limits.places_per_peer
        assert history <= limits.history_places
        assert (
            max(Counter(fetch.peer for fetch in self.fetches.values()).values(), default=0) <= limits.fetches_per_peer
        )
        for running in (self.deliveries, self.fetches):
            rooms = Counter(one.room for number, one in running.items() if number not in self.cancelled)
            assert max(rooms.values(), default=0) <= 1
        assert self.draining.rooms <= limits.rooms
        assert self.draining.pdus <= 2 * limits.window * limits.rooms

    def advance(self, ms: int) -> None:
        self.now_ms += ms
        if self.wake_at_ms is not None and self.now_ms >= self.wake_at_ms:
            self.wake_at_ms = None
            self.step(TimePassed())

    def answer(self, delivery: int, outcomes: Mapping[int, Outcome] | Outcome, jitter: float = 0.5) -> None:
        action = self.deliveries.pop(delivery)
        if isinstance(outcomes, Outcome):
            outcomes = dict.fromkeys(action.positions, outcomes)
        outcomes = {
            position: outcome if position in self.rows else Outcome.FINAL for position, outcome in outcomes.items()
        }
        for position, outcome in outcomes.items():
            self.finals[position] += outcome is Outcome.FINAL
        self.step(Answered(delivery=delivery, outcomes=outcomes, jitter=jitter))

    def end_fetch(self, fetch: int, *, helped: bool) -> None:
        del self.fetches[fetch]
        self.step(Fetched(fetch=fetch, helped=helped, jitter=0.5))

    def write(self) -> None:
        action = self.writes.pop(0)
        for position in action.delete:
            assert self.finals[position]
            self.rows.pop(position, None)
        for one in action.put_off:
            if one.position in self.rows:
                self.rows[one.position].next_try_ms = one.next_try_ms
                self.rows[one.position].first_failed_ms = one.first_failed_ms
        self.step(Written(room=action.room))

    def read(self) -> None:
        self.step(self.reads.pop(0))

    def page(self, action: ReadRoom) -> RoomRead:
        """Return the rows as they are now. The answer comes later."""
        rows = [row for row in self.rows.values() if row.pdu.room == action.room]
        due = [replace(row.pdu, first_failed_ms=row.first_failed_ms) for row in rows if row.next_try_ms <= self.now_ms]
        due.sort(key=lambda pdu: (pdu.is_history, pdu.position))
        next_try_ms = min((row.next_try_ms for row in rows if row.next_try_ms > self.now_ms), default=None)
        more = len(due) > action.limit
        return RoomRead(room=action.room, pdus=due[: action.limit], more=more, next_try_ms=next_try_ms)

    def find(self) -> None:
        action = self.finds.pop(0)
        rooms: dict[int, int] = defaultdict(lambda: 1 << 60)
        for row in self.rows.values():
            rooms[row.pdu.room] = min(rooms[row.pdu.room], row.next_try_ms)
        found = sorted(rooms.items(), key=lambda room: room[1])
        self.step(RoomsFound(rooms=found[: action.limit], complete=len(found) <= action.limit))

    def database_works(self) -> None:
        while self.writes or self.reads or self.finds:
            if self.writes:
                self.write()
            elif self.reads:
                self.read()
            else:
                self.find()

    def settle(self, seed: int = 0) -> None:
        """Let all go well until no row is left."""
        chance = random.Random(seed)
        for _ in range(5_000):
            self.database_works()
            if self.deliveries:
                self.answer(chance.choice(list(self.deliveries)), Outcome.FINAL)
            elif self.fetches:
                self.end_fetch(next(iter(self.fetches)), helped=True)
            elif self.rows:
                assert self.wake_at_ms is not None, "rows are left, and nothing will happen"
                self.advance(max(self.wake_at_ms - self.now_ms, 0))
            else:
                return
        raise AssertionError("the rows do not drain")
