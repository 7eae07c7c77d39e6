"""Rooms with rows that another transaction holds locked. Their writes wait here, in order, while others are stored.

Only its persister writes a room's rows. So such a lock is a purge, an operator's transaction, or a statement of a
process that died. The architecture page gives these rooms a second lane with a lease of its own. It is not needed: a
second lease would be one more writer in every vector and token, and its rows and those of the other lane would have to
name each other as `prior`. Also, nothing is tried blindly here. A room's rows are probed without waiting (SKIP LOCKED)
until they are free. Only then its writes go into a statement of their own.

Limits: events and bytes per room and in all, rooms, and time. A room beyond them is given up, and its clients get 503.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from shared.core.errors import Unavailable
from shared.metrics.persister import PersisterMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.batch import EventBatch
from shared.storage.events.locked_rooms import find_locked_rooms
from workers.event_persister.commit.batches import batch_of
from workers.event_persister.room.live_room import LiveRoom, Write

PROBE_EVERY_S = 0.1
#: How long a write waits for its room's rows. Clients that get 503 retry.
GIVE_UP_AFTER_S = 10.0
_RETRY_AFTER_S = 5.0
_MAX_EVENTS_OF_ROOM = 1000
_MAX_EVENTS = 10_000
_MAX_BYTES_OF_ROOM = 16 << 20
_MAX_BYTES = 64 << 20
_MAX_ROOMS = 1000
#: A room that is still locked is probed again after this part of the time that it has waited, at most a second: each
#: probe is a statement with a commit of its own, beside all other writes.
_WAITED_PART = 0.1
_LONGEST_LOOK_S = 1.0
_PROBED_WRITES = 64  # the rows of so many writes are probed. A lock further behind is met when the room is tried
#: A lock that the probe cannot see costs all rooms a time-out at each try, so the tries become rare.
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 3.0
#: A room that was given up stays known while it is locked, so that its next write does not stop a batch again.
_KNOWN_FOR_S = 60.0


@dataclass(slots=True, eq=False)
class _LockedRoom:
    """One room that waits.

    rows: the rows that are probed.
    since: when the oldest write began to wait, or the room was given up.
    trying: True while its writes are in a statement of their own.
    pause_s, not_before: for locks that the probe cannot see.
    """

    rows: EventBatch
    since: float
    writes: deque[Write] = field(default_factory=deque)
    events: int = 0
    bytes: int = 0
    trying: bool = False
    pause_s: float = 0.0
    not_before: float = 0.0


class LockedRooms:
    """The waiting rooms, with limits. give_up: called with a room whose writes must fail."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: PersisterMetrics,
        server_name: str,
        give_up: Callable[[LiveRoom, Unavailable], None],
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._server_name = server_name
        self._give_up = give_up
        self._rooms: dict[int, _LockedRoom] = {}
        self._events = 0
        self._bytes = 0
        self.free: deque[int] = deque()  # rooms whose rows were seen free, to be tried

    def __len__(self) -> int:
        return len(self._rooms)

    @property
    def waiting_bytes(self) -> int:
        return self._bytes

    async def find_locked(self, batch: EventBatch) -> set[int]:
        """Return the locked rooms of a batch that met a lock; all of its rooms if the probe fails."""
        try:
            return await find_locked_rooms(self._database, [batch])
        except Unavailable:
            return set(batch.extremities)

    def put(self, writes: Sequence[Write], *, seen: bool) -> None:
        """Set the rooms of these writes apart. seen: True if `probe` sees their lock."""
        now = self._clock.monotonic_s()
        by_room: dict[int, list[Write]] = {}
        for write in writes:
            by_room.setdefault(write.room.room_nid, []).append(write)
        for room_nid, mine in by_room.items():
            rows = batch_of(mine[:_PROBED_WRITES], self._server_name)
            waiting = self._rooms.setdefault(room_nid, _LockedRoom(rows, now))
            waiting.rows, waiting.trying = rows, False
            if not seen:
                waiting.pause_s = min(max(2 * waiting.pause_s, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
                waiting.not_before = now + waiting.pause_s
            for write in mine:
                self._append(waiting, write)
            if len(self._rooms) > _MAX_ROOMS:
                self._fail(waiting, "Too many rooms are locked in the database. Try again later")
                del self._rooms[room_nid]
        self._measure()

    def keep_back(self, writes: Sequence[Write]) -> list[Write]:
        """Keep the writes whose rooms are apart, and return the others."""
        if not self._rooms:
            return list(writes)
        others = []
        for write in writes:
            waiting = self._rooms.get(write.room.room_nid)
            if waiting is None or waiting.trying:
                others.append(write)
            elif write.built:
                self._append(waiting, write)
        return others

    def _append(self, waiting: _LockedRoom, write: Write) -> None:
        if not waiting.writes:
            waiting.since = self._clock.monotonic_s()
        waiting.writes.append(write)
        waiting.events += len(write.built)
        self._events += len(write.built)
        waiting.bytes += write.size_bytes
        self._bytes += write.size_bytes
        is_too_much = waiting.bytes > _MAX_BYTES_OF_ROOM or self._bytes > _MAX_BYTES
        if is_too_much or waiting.events > _MAX_EVENTS_OF_ROOM or self._events > _MAX_EVENTS:
            self._fail(waiting, "Too many events of this room wait to be stored. Try again later")

    async def probe(self) -> None:
        """Give up the rooms that waited for too long, and find those whose rows are free. Raises Unavailable."""
        now = self._clock.monotonic_s()
        for room_nid, waiting in list(self._rooms.items()):
            if waiting.trying:
                continue
            if waiting.writes and now - waiting.since > GIVE_UP_AFTER_S:
                self._fail(waiting, "The room is locked in the database. Try again later")
            elif not waiting.writes and now - waiting.since > _KNOWN_FOR_S:
                del self._rooms[room_nid]
        asked = {
            room_nid: waiting
            for room_nid, waiting in self._rooms.items()
            if not waiting.trying and now >= waiting.not_before and room_nid not in self.free
        }
        locked = (
            await find_locked_rooms(self._database, [waiting.rows for waiting in asked.values()]) if asked else set()
        )
        for room_nid, waiting in asked.items():
            if room_nid in locked:
                waiting.not_before = now + min(_WAITED_PART * (now - waiting.since), _LONGEST_LOOK_S)
            elif not waiting.trying:
                self.free.append(room_nid)
        self._measure()

    def begin_try(self, room_nid: int) -> list[Write]:
        """Return the waiting writes of a room, in order, to be stored. Until `end_try` none of them are kept back."""
        waiting = self._rooms.get(room_nid)
        if waiting is None:
            return []
        waiting.trying = True
        writes = list(waiting.writes)
        waiting.writes.clear()
        self._events -= waiting.events
        self._bytes -= waiting.bytes
        waiting.events = waiting.bytes = 0
        return writes

    def end_try(self, room_nid: int) -> None:
        """Forget the room unless it was set apart again."""
        waiting = self._rooms.get(room_nid)
        if waiting is not None and waiting.trying:
            del self._rooms[room_nid]
        self._measure()

    def give_up_all(self) -> None:
        """Fail all writes that wait here."""
        for waiting in self._rooms.values():
            self._fail(waiting, "The server process is ending, and the room is locked in the database. Try again")
        self._rooms = {room_nid: waiting for room_nid, waiting in self._rooms.items() if waiting.trying}
        self.free.clear()
        self._measure()

    def _fail(self, waiting: _LockedRoom, why: str) -> None:
        rooms = {write.room for write in waiting.writes}
        self._events -= waiting.events
        self._bytes -= waiting.bytes
        waiting.writes.clear()
        waiting.events = waiting.bytes = 0
        waiting.since = self._clock.monotonic_s()
        for room in rooms:
            if not room.lost or room.writes:
                self._metrics.given_up.inc()
                self._give_up(room, Unavailable(why, _RETRY_AFTER_S))

    def _measure(self) -> None:
        self._metrics.apart.set(len(self._rooms))
