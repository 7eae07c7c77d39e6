"""PURE: the way of staged PDUs to the owners of their rooms. Events go in, actions come out.

A federation_reader drains the rooms of its slots of the kind `fetches`. Rooms take turns by deficit round robin: a room
spends a quantum of cost in each turn, and a delivery that took long is charged to its next turns. A room has one
delivery and one fetch at most. So a slow room holds one place until its delivery ends. Afterwards it uses
`slow_places`, until it is quick again. Slow servers share `slow_fetches` in the same way. Live PDUs come before
history, which has few places. Each server has a limit of deliveries and fetches.

If predecessors are missing, the PDUs of that room wait for one fetch: some rounds of missing events, then the state,
from the servers that sent the waiting PDUs, one after the other. If none of them helps, the PDUs are put off. Nothing
is given up here: a PDU is tried until its outcome is final.

**Rows.** `staged_pdus` is the truth, and this core learns of a PDU after its row has committed. The row has the JSON,
the time since when attempts fail, and the next try. It is deleted after the owner's final answer, and updated when it
is put off (`WriteOutcomes`, fenced). The rest is memory. After a restart, or with the next owner of the slot,
deliveries and fetches are repeated. That is harmless, as the owner of the room answers a stored event as before. A
delivery of a row that is gone is FINAL. The driver repeats reads and writes until they succeed, tells each answer once,
and `Written` in order of a room.

**Invariants**

- A row that is due is in memory, or its room has `more`, or `_find_at_ms` is set.
- A position is in one place: due, history, waiting, in delivery, or being written.
- Of a room, at most twice `window` PDUs are in memory; at most `rooms` rooms are.
"""

import heapq
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.core.federation.back_off import wait_ms
from shared.core.federation.draining_records import (
    Answered,
    Deliver,
    DrainAction,
    DrainEvent,
    DrainLimits,
    Fetch,
    Fetched,
    FetchKind,
    FindRooms,
    Outcome,
    PutOff,
    ReadRoom,
    RetryRoom,
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
from shared.core.identifiers import ServerName


@dataclass(slots=True, kw_only=True, eq=False)
class _Room:
    """A room with staged PDUs.

    known: all positions in memory.
    writes: those of each statement under way.
    is_queued: True while it waits for its turn or a place.
    parked: the rooms that wait for the same place, while it waits for one of history or of a peer.
    more: True if the database may have due rows that are not in memory.
    next_try_ms: the earliest next try of rows that were put off.
    held_until_ms: no delivery before, as the owner was busy.
    tried: servers whose state did not help.
    """

    number: int
    due: deque[StagedPdu] = field(default_factory=deque)
    history: deque[StagedPdu] = field(default_factory=deque)
    waiting: dict[int, StagedPdu] = field(default_factory=dict)
    known: set[int] = field(default_factory=set)
    writes: deque[tuple[int, ...]] = field(default_factory=deque)
    is_queued: bool = False
    parked: dict[int, "_Room"] | None = None
    is_delivering: bool = False
    is_fetching: bool = False
    is_fetch_queued: bool = False
    is_reading: bool = False
    more: bool = False
    next_try_ms: int | None = None
    held_until_ms: int = 0
    busy_since_ms: int | None = None
    is_slow: bool = False
    deficit: int = 0
    rounds: int = 0
    gap_since_ms: int | None = None
    tried: set[ServerName] = field(default_factory=set)


@dataclass(slots=True, frozen=True, kw_only=True)
class _Delivery:
    room: _Room
    pdus: tuple[StagedPdu, ...]
    origins: frozenset[ServerName]
    is_history: bool
    is_slow: bool
    started_ms: int


@dataclass(slots=True, frozen=True, kw_only=True)
class _Fetch:
    room: _Room
    peer: ServerName
    kind: FetchKind
    is_slow: bool
    started_ms: int


class Draining:
    """The staged PDUs of the rooms that this process drains."""

    def __init__(self, limits: DrainLimits) -> None:
        self._limits = limits
        self._rooms: dict[int, _Room] = {}
        self._rings: dict[bool, deque[_Room]] = {False: deque(), True: deque()}  # by is_slow
        self._peer_waits: dict[ServerName, dict[int, _Room]] = {}
        self._freed: set[ServerName] = set()
        self._history_waits: dict[int, _Room] = {}
        self._deliveries: dict[int, _Delivery] = {}
        self._used: Counter[bool] = Counter()  # by is_slow
        self._history_used = 0
        self._peer_used: Counter[ServerName] = Counter()
        self._fetches: dict[int, _Fetch] = {}
        self._fetch_waits: dict[ServerName, deque[_Room]] = {}
        self._fetches_of: Counter[ServerName] = Counter()
        self._slow_peers: dict[ServerName, None] = {}
        self._slow_fetches = 0
        self._number = 0
        self._timers: list[tuple[int, int]] = []
        self._find_at_ms: int | None = None
        self._is_finding = False
        self._wake_at_ms: int | None = None

    @property
    def rooms(self) -> int:
        return len(self._rooms)

    @property
    def pdus(self) -> int:
        """PDUs in memory."""
        return sum(len(room.known) for room in self._rooms.values())

    def step(self, event: DrainEvent, now_ms: int) -> Sequence[DrainAction]:
        """Take in one event. now_ms: by the database's clock."""
        actions: list[DrainAction] = []
        match event:
            case Staged():
                self._stage(event, now_ms, actions)
            case Answered():
                self._answered(event, now_ms, actions)
            case Fetched():
                self._fetched(event, now_ms, actions)
            case Written(room=number):
                if (room := self._rooms.get(number)) is not None and room.writes:
                    room.known.difference_update(room.writes.popleft())
                    self._refresh(room, now_ms, actions)
            case RoomRead():
                self._room_read(event, now_ms, actions)
            case RoomsFound():
                self._rooms_found(event, now_ms, actions)
            case RetryRoom(room=number):
                if (room := self._rooms.get(number)) is not None:
                    room.held_until_ms, room.more = 0, True
                    self._refresh(room, now_ms, actions)
            case RoomGone(room=number):
                self._rooms.pop(number, None)
            case RoomsMayWait():
                self._find_by(now_ms)
            case TimePassed():
                self._wake_at_ms = None
        self._pump(now_ms, actions)
        return actions

    # Rows

    def _stage(self, event: Staged, now_ms: int, actions: list[DrainAction]) -> None:
        room = self._rooms.get(event.room)
        if room is None:
            if len(self._rooms) >= self._limits.rooms:
                self._find_by(now_ms + self._limits.read_rooms_ms)
                return
            room = self._rooms[event.room] = _Room(number=event.room)
        for pdu in event.pdus:
            if room.more or room.is_reading or len(room.known) >= self._limits.window:
                room.more = True  # it is read later, in order
                break
            self._take(room, pdu)
            if room.parked is not None and not pdu.is_history and self._has_place(pdu.origin):
                self._unpark(room)
        self._refresh(room, now_ms, actions)

    def _take(self, room: _Room, pdu: StagedPdu) -> None:
        if pdu.position not in room.known:
            room.known.add(pdu.position)
            (room.history if pdu.is_history else room.due).append(pdu)

    def _room_read(self, event: RoomRead, now_ms: int, actions: list[DrainAction]) -> None:
        room = self._rooms.get(event.room)
        if room is None or not room.is_reading:
            return
        room.is_reading = False
        room.more = room.more or event.more
        for pdu in event.pdus:
            self._take(room, pdu)
        if event.next_try_ms is not None:
            self._try_at(room, event.next_try_ms)
        self._refresh(room, now_ms, actions)

    def _rooms_found(self, event: RoomsFound, now_ms: int, actions: list[DrainAction]) -> None:
        if not self._is_finding:
            return
        self._is_finding = False
        if not event.complete:
            self._find_by(now_ms + self._limits.read_rooms_ms)
        for number, next_try_ms in event.rooms:
            room = self._rooms.get(number)
            if room is not None:
                self._try_at(room, next_try_ms)  # it may have older rows than those in memory
                self._refresh(room, now_ms, actions)
                continue
            if next_try_ms > now_ms or len(self._rooms) >= self._limits.rooms:
                self._find_by(max(next_try_ms, now_ms + self._limits.read_rooms_ms))
                continue
            room = self._rooms[number] = _Room(number=number, more=True)
            self._refresh(room, now_ms, actions)

    def _find_by(self, at_ms: int) -> None:
        self._find_at_ms = at_ms if self._find_at_ms is None else min(at_ms, self._find_at_ms)

    def _try_at(self, room: _Room, at_ms: int) -> None:
        if room.next_try_ms is None or at_ms < room.next_try_ms:
            room.next_try_ms = at_ms
            heapq.heappush(self._timers, (at_ms, room.number))

    def _refresh(self, room: _Room, now_ms: int, actions: list[DrainAction]) -> None:
        """See what the room can do next."""
        if self._rooms.get(room.number) is not room:
            return
        if room.waiting and not room.is_fetching and not room.is_fetch_queued and not room.is_delivering:
            self._want_fetch(room, now_ms, actions)
        if room.next_try_ms is not None and room.next_try_ms <= now_ms:
            room.next_try_ms, room.more = None, True
        is_still = not (room.is_delivering or room.is_reading or room.writes)
        if room.due or room.history:
            if not (room.is_delivering or room.is_queued or room.is_fetching) and room.held_until_ms <= now_ms:
                room.is_queued = True
                self._rings[room.is_slow].append(room)
        elif room.more and is_still and len(room.waiting) < self._limits.window and room.held_until_ms <= now_ms:
            room.is_reading, room.more = True, False
            actions.append(ReadRoom(room=room.number, limit=self._limits.window + len(room.waiting)))
        elif is_still and not (room.more or room.waiting or room.is_fetching or room.is_queued):
            room.deficit = min(room.deficit, 0)
            if room.next_try_ms is None:
                del self._rooms[room.number]
            elif len(self._rooms) > self._limits.rooms // 2:
                del self._rooms[room.number]
                self._find_by(room.next_try_ms)

    # Deliveries

    def _pump(self, now_ms: int, actions: list[DrainAction]) -> None:
        while self._timers and self._timers[0][0] <= now_ms:
            _, number = heapq.heappop(self._timers)
            if (room := self._rooms.get(number)) is not None:
                self._refresh(room, now_ms, actions)
        while True:
            for is_slow, places in ((False, self._limits.places), (True, self._limits.slow_places)):
                ring = self._rings[is_slow]
                while ring and self._used[is_slow] < places:
                    self._turn(ring.popleft(), ring, now_ms, actions)
            if not self._release():
                break
        self._start_fetches(now_ms, actions)
        if self._find_at_ms is not None and self._find_at_ms <= now_ms and not self._is_finding:
            if len(self._rooms) <= self._limits.rooms // 2:
                self._find_at_ms, self._is_finding = None, True
                actions.append(FindRooms(limit=self._limits.rooms))
            else:
                self._find_at_ms = now_ms + self._limits.read_rooms_ms
        times = [self._timers[0][0]] if self._timers else []
        if self._find_at_ms is not None and not self._is_finding:
            times.append(self._find_at_ms)
        at_ms = min(times, default=None)
        if at_ms is not None and (self._wake_at_ms is None or at_ms < self._wake_at_ms):
            self._wake_at_ms = at_ms
            actions.append(WakeAt(at_ms=at_ms))

    def _turn(self, room: _Room, ring: deque[_Room], now_ms: int, actions: list[DrainAction]) -> None:
        room.is_queued = False
        if self._rooms.get(room.number) is not room or room.is_fetching or room.held_until_ms > now_ms:
            return
        is_history = not room.due
        if is_history and self._history_used >= self._limits.history_places:
            self._park(room, self._history_waits)
            return
        source = room.history if is_history else room.due
        if not source:
            return
        if not any(self._has_place(pdu.origin) for pdu in source):
            self._park(room, self._peer_waits.setdefault(source[0].origin, {}))
            return
        room.deficit = min(room.deficit, self._limits.quantum) + self._limits.quantum
        batch, cost = self._batch(room, source)
        if not batch:
            room.is_queued = True
            ring.append(room)
            return
        room.deficit -= cost
        room.is_delivering = True
        self._number += 1
        origins = frozenset(pdu.origin for pdu in batch)
        self._deliveries[self._number] = _Delivery(
            room=room,
            pdus=tuple(batch),
            origins=origins,
            is_history=is_history,
            is_slow=room.is_slow,
            started_ms=now_ms,
        )
        self._used[room.is_slow] += 1
        self._history_used += is_history
        self._peer_used.update(origins)
        positions = tuple(pdu.position for pdu in batch)
        actions.append(Deliver(delivery=self._number, room=room.number, positions=positions))

    def _batch(self, room: _Room, source: deque[StagedPdu]) -> tuple[list[StagedPdu], int]:
        """Take the next PDUs that the room can pay for."""
        batch: list[StagedPdu] = []
        left: list[StagedPdu] = []
        cost = 0
        while source and len(batch) < self._limits.batch:
            pdu = source.popleft()
            if not self._has_place(pdu.origin):
                left.append(pdu)
            elif cost + pdu.cost <= room.deficit:
                batch.append(pdu)
                cost += pdu.cost
            else:
                source.appendleft(pdu)
                break
        source.extendleft(reversed(left))
        return batch, cost

    def _answered(self, event: Answered, now_ms: int, actions: list[DrainAction]) -> None:
        delivery = self._deliveries.pop(event.delivery, None)
        if delivery is None:
            return
        room = delivery.room
        self._used[delivery.is_slow] -= 1
        for origin in delivery.origins:
            self._peer_used[origin] -= 1
            if not self._peer_used[origin]:
                del self._peer_used[origin]
        self._freed.update(delivery.origins)
        self._history_used -= delivery.is_history
        room.is_delivering = False
        if self._rooms.get(room.number) is not room:
            return
        took_ms = max(now_ms - delivery.started_ms, 0)
        extra = took_ms * self._limits.cost_per_ms - sum(pdu.cost for pdu in delivery.pdus)
        room.deficit = max(room.deficit - max(extra, 0), -self._limits.longest_debt)
        again = self._take_outcomes(room, delivery, event, now_ms, actions)
        room.is_slow = bool(again) or took_ms > self._limits.slow_ms
        if again:
            (room.history if delivery.is_history else room.due).extendleft(reversed(again))
            if room.busy_since_ms is None:
                room.busy_since_ms = now_ms
            room.held_until_ms = now_ms + wait_ms(self._limits.back_off, room.busy_since_ms, now_ms, event.jitter)
            heapq.heappush(self._timers, (room.held_until_ms, room.number))
        else:
            room.busy_since_ms = None
        if not room.waiting:
            room.rounds, room.gap_since_ms = 0, None
            room.tried.clear()
        self._refresh(room, now_ms, actions)

    def _take_outcomes(
        self, room: _Room, delivery: _Delivery, event: Answered, now_ms: int, actions: list[DrainAction]
    ) -> list[StagedPdu]:
        """Take in the outcomes. Returns the PDUs that are tried again with their room."""
        again, delete, later = [], [], []
        for pdu in delivery.pdus:
            match event.outcomes.get(pdu.position, Outcome.BUSY):
                case Outcome.FINAL:
                    delete.append(pdu.position)
                case Outcome.LATER:
                    later.append(pdu)
                case Outcome.MISSING:
                    room.waiting[pdu.position] = pdu
                case Outcome.BUSY:
                    again.append(pdu)
        self._write(room, delete, later, now_ms, event.jitter, actions)
        return again

    def _write(
        self,
        room: _Room,
        delete: Sequence[int],
        later: Sequence[StagedPdu],
        now_ms: int,
        jitter: float,
        actions: list[DrainAction],
    ) -> None:
        if not delete and not later:
            return
        put_off = []
        for pdu in later:
            since_ms = now_ms if pdu.first_failed_ms is None else pdu.first_failed_ms
            next_try_ms = now_ms + wait_ms(self._limits.back_off, since_ms, now_ms, jitter)
            put_off.append(PutOff(position=pdu.position, first_failed_ms=since_ms, next_try_ms=next_try_ms))
            self._try_at(room, next_try_ms)
        room.writes.append((*delete, *(one.position for one in put_off)))
        actions.append(WriteOutcomes(room=room.number, delete=tuple(delete), put_off=tuple(put_off)))

    def _has_place(self, origin: ServerName) -> bool:
        return self._peer_used.get(origin, 0) < self._limits.places_per_peer

    def _park(self, room: _Room, waits: dict[int, _Room]) -> None:
        room.is_queued = True
        room.parked = waits
        waits[room.number] = room

    def _unpark(self, room: _Room) -> None:
        """Let a room take part in the turns again."""
        if room.parked is not None:
            room.parked.pop(room.number, None)
            room.parked = None
            self._rings[room.is_slow].append(room)

    def _release(self) -> bool:
        """Unpark as many rooms as there are places for. Returns True if there were any."""
        rooms = list(self._history_waits.values())[: max(self._limits.history_places - self._history_used, 0)]
        for peer in list(self._freed):
            waits = self._peer_waits.get(peer)
            free = self._limits.places_per_peer - self._peer_used.get(peer, 0)
            if waits and free > 0:
                rooms += list(waits.values())[:free]
            else:
                self._freed.discard(peer)
            if not waits:
                self._peer_waits.pop(peer, None)
        for room in rooms:
            self._unpark(room)
        return bool(rooms)

    # Fetches

    def _want_fetch(self, room: _Room, now_ms: int, actions: list[DrainAction]) -> None:
        newest_first = sorted(room.waiting.values(), key=lambda pdu: -pdu.position)
        peer = next((pdu.origin for pdu in newest_first if pdu.origin not in room.tried), None)
        if peer is None:
            later = sorted(room.waiting.values(), key=lambda pdu: pdu.position)
            room.waiting = {}
            room.rounds, room.gap_since_ms = 0, None
            room.tried.clear()
            # The wait needs no jitter of its own: fetches end at different times.
            self._write(room, (), later, now_ms, 0.0, actions)
            return
        room.is_fetch_queued = True
        self._fetch_waits.setdefault(peer, deque()).append(room)

    def _start_fetches(self, now_ms: int, actions: list[DrainAction]) -> None:
        limits = self._limits
        for peer in list(self._fetch_waits):
            waits = self._fetch_waits[peer]
            while waits and self._may_fetch_from(peer):
                room = waits.popleft()
                room.is_fetch_queued = False
                if self._rooms.get(room.number) is room and room.waiting and not room.is_fetching:
                    self._start_fetch(room, peer, now_ms, actions)
            del self._fetch_waits[peer]
            if waits:
                self._fetch_waits[peer] = waits  # to the end: peers take turns
            if len(self._fetches) >= limits.fetches:
                return

    def _may_fetch_from(self, peer: ServerName) -> bool:
        limits = self._limits
        if len(self._fetches) >= limits.fetches or self._fetches_of.get(peer, 0) >= limits.fetches_per_peer:
            return False
        return peer not in self._slow_peers or self._slow_fetches < limits.slow_fetches

    def _start_fetch(self, room: _Room, peer: ServerName, now_ms: int, actions: list[DrainAction]) -> None:
        if room.gap_since_ms is None:
            room.gap_since_ms = now_ms
        is_long = room.rounds >= self._limits.missing_rounds or now_ms - room.gap_since_ms >= self._limits.missing_ms
        kind = FetchKind.STATE if is_long else FetchKind.MISSING_EVENTS
        room.is_fetching = True
        self._number += 1
        is_slow = peer in self._slow_peers
        self._slow_fetches += is_slow
        self._fetches[self._number] = _Fetch(room=room, peer=peer, kind=kind, is_slow=is_slow, started_ms=now_ms)
        self._fetches_of[peer] += 1
        positions = tuple(sorted(room.waiting))
        actions.append(Fetch(fetch=self._number, room=room.number, peer=peer, kind=kind, positions=positions))

    def _fetched(self, event: Fetched, now_ms: int, actions: list[DrainAction]) -> None:
        fetch = self._fetches.pop(event.fetch, None)
        if fetch is None:
            return
        self._slow_fetches -= fetch.is_slow
        self._slow_peers.pop(fetch.peer, None)
        if now_ms - fetch.started_ms > self._limits.slow_fetch_ms:
            self._slow_peers[fetch.peer] = None
            if len(self._slow_peers) > self._limits.slow_peers:
                del self._slow_peers[next(iter(self._slow_peers))]
        self._fetches_of[fetch.peer] -= 1
        if not self._fetches_of[fetch.peer]:
            del self._fetches_of[fetch.peer]
        room = fetch.room
        room.is_fetching = False
        if self._rooms.get(room.number) is not room:
            return
        if fetch.kind is FetchKind.STATE:
            room.tried.add(fetch.peer)
        room.rounds = room.rounds + 1 if event.helped else self._limits.missing_rounds
        if event.helped:
            ready = sorted(room.waiting.values(), key=lambda pdu: pdu.position)
            room.waiting = {}
            room.due.extendleft(pdu for pdu in reversed(ready) if not pdu.is_history)
            room.history.extendleft(pdu for pdu in reversed(ready) if pdu.is_history)
        self._refresh(room, now_ms, actions)
