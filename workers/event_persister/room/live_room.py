"""A room in memory: its state, and the writes that wait to be stored.

All that a usual send needs is here, so that it reads nothing from the database. An event is built on the pending layer
of the state (`room_state.py`) and takes its place at once. When a write fails, the pending layer is dropped and the
writes that were built above it are built again (`rebuild_after`).
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import RoomVersion
from workers.event_persister.room.drafts import BuiltEvent, Draft, Head, NewRoom, RoomChanged, RoomLost
from workers.event_persister.room.event_builder import EventBuilder, Identity
from workers.event_persister.room.room_push import RoomPush
from workers.event_persister.room.room_state import RoomState
from workers.event_persister.room.turns import PlacementTurns

#: Transactions of clients that are kept per room. The database finds an older one when it is stored again.
TRANSACTIONS_KEPT_MS = 3_600_000
MAX_TRANSACTIONS = 5000
MAX_GIVEN_STATES = 16
#: Changes of the state by one event. If there are more, taking them in would hold up the loop. Reading the room again
#: does not.
MANY_CHANGES = 1000
_ROOM_BYTES = 2000
TRANSACTION_BYTES = 410  # with ids of 255 bytes; with usual ones 300


@dataclass(slots=True, eq=False, kw_only=True)
class Write:
    """Events that are stored together, or not at all.

    drafts: what a client wrote. Empty for events that `graph/placement.py` placed: they cannot be built again.
    event_nids: reserved numbers, one per draft.
    done: the event ids, once they are stored.
    key: of the client's transaction.
    built: the events with their places on the room's pending layer. Replaced when they are built again.
    size_bytes: the memory that they take while they wait, set by the committer.
    """

    room: "LiveRoom"
    drafts: Sequence[Draft]
    event_nids: Sequence[int]
    done: "asyncio.Future[list[EventId]]"
    key: bytes | None = None
    new_room: NewRoom | None = None
    built: list[BuiltEvent] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def is_stored(self) -> bool:
        return self.done.done() and self.done.exception() is None

    async def wait(self) -> list[EventId]:
        """Return the event ids once they are stored, or raise the write's error. Cancelling does not end the write."""
        return await asyncio.shield(self.done)

    def fail(self, error: Exception) -> None:
        """Tell those who wait that nothing of it was stored."""
        if not self.done.done():
            self.done.set_exception(error)
            # A client that went away leaves a future that is never read: that is no fault.
            self.done.exception()


class RecentTransactions(dict[bytes, tuple[EventId, int]]):
    """key -> (event id, time in ms)."""

    def note(self, key: bytes, event_id: EventId, now_ms: int) -> None:
        """Add a transaction that was just stored, and drop those beyond the limits of age and number."""
        self[key] = (event_id, now_ms)
        while True:  # insertion order is age
            oldest = next(iter(self))
            recent = self[oldest][1] >= now_ms - TRANSACTIONS_KEPT_MS
            if recent and len(self) <= MAX_TRANSACTIONS:
                return
            del self[oldest]


class RecentStates(dict[bytes, int]):
    """Digest of a whole state that another server gave -> its number."""

    def note(self, digest: bytes, nid: int) -> None:
        """Add a state that was just stored, and drop the oldest beyond the limit."""
        self[digest] = nid
        while len(self) > MAX_GIVEN_STATES:
            del self[next(iter(self))]


class Parked(NamedTuple):
    """reason: why the state of a room is not resolved. read_s: when that was read, by the clock of the process."""

    reason: str
    read_s: float


class LiveRoom:
    """last_writer, last_position: of the latest stored event; 0 in a new room."""

    def __init__(
        self,
        identity: Identity,
        version: RoomVersion,
        room_nid: int,
        create: Event,
        state: RoomState,
        *,
        last_writer: int = 0,
        last_position: int = 0,
        transactions: Mapping[bytes, tuple[EventId, int]] | None = None,
    ) -> None:
        self.version = version
        self.room_nid = room_nid
        self.room_id: RoomId = create.room_id
        self.create = create
        self.state = state
        self.builder = EventBuilder(identity, version, create, state)
        self.last_writer = last_writer
        self.last_position = last_position
        self.transactions = RecentTransactions(transactions or {})
        self.writes: list[Write] = []  # built and not stored, in the order of their places
        self.under_way: dict[bytes, Write] = {}  # those of `writes` with a client's transaction
        self.slow_sends: dict[bytes, asyncio.Future[EventId]] = {}  # clients' transactions beside the room's turn
        self.given_states = RecentStates()
        self.parked: Parked | None = None  # while it is set, nothing is resolved (`graph/parked_rooms.py`)
        self.too_long = 0  # resolutions that took too long, in a row
        self.turns = PlacementTurns()  # one at a time works out places beside the room's own writes
        self.on_redacted: Callable[[EventId], None] = _forget_nothing  # called with ids, once that is stored
        self.held: asyncio.Future[None] | None = None  # while it is set, the room's own writes wait for it
        self.outgrown = False  # a stored event has changed too much of the state: the room must be read again
        self.lost = False  # another owner was seen, or the lease is gone: nothing may be built on this any more

    def build(self, write: Write, now_ms: int, *, create_nid: int | None = None) -> None:
        """Build the write's events on the pending layer, and let them take their places in it.

        create_nid: in a room that does not exist yet, the number of its create event, which comes first.
        Raises MatrixError (the event cannot be), AuthRuleViolation (it may not be): then nothing has changed.
        """
        before = self.state.savepoint(len(write.drafts) + (create_nid is not None))
        built: list[BuiltEvent] = []
        try:
            if create_nid is not None:
                built.append(self.state.advance(self.builder.build_create(create_nid)))
            for draft, nid in zip(write.drafts, write.event_nids, strict=True):
                built.append(self.state.advance(self.builder.build_next(draft, nid, now_ms)))
        except BaseException:
            self.state.return_to(before, built)
            raise
        write.built = built
        self._wait_for(write)

    def take(self, write: Write) -> None:
        """Let events take the places that were found for them, on the head as it is now. Raises RoomLost."""
        if self.lost:
            raise RoomLost("The room is moving")
        write.built = [self.state.advance(built) for built in write.built]
        self._wait_for(write)

    def _wait_for(self, write: Write) -> None:
        self.writes.append(write)
        if write.key is not None:
            self.under_way[write.key] = write

    def write_of(self, event_nid: int) -> Write | None:
        """Return the write that will store this event, None if it is stored."""
        if not self.state.is_pending(event_nid):
            return None
        return next(write for write in self.writes if any(built.event_nid == event_nid for built in write.built))

    def committed(self, write: Write, positions: Sequence[int], writer: int) -> None:
        """Take in that the write is stored. The writes of a room come here in their order."""
        self.writes.remove(write)
        for built, position in zip(write.built, positions, strict=True):
            if len(built.changes) > MANY_CHANGES:
                self.outgrown = True
            else:
                self.state.commit(built)
            if built.redacts_nid is not None and built.event.redacts is not None:
                self.on_redacted(built.event.redacts)
            if built.ordinal is not None:
                self.last_writer, self.last_position = writer, position
        last = write.built[-1]
        self.state.commit_head(last.head)
        if write.key is not None:
            self.under_way.pop(write.key, None)
            self.transactions.note(write.key, last.event.event_id, last.event.origin_server_ts)

    def rebuild_after(self, failed: Write, now_ms: int) -> None:
        """Drop the pending layer after a write was refused, and build the other waiting writes again.

        Those that the rules no longer allow fail with their error. No statement with writes of this room may be under
        way.
        """
        waiting = [write for write in self.writes if write is not failed]
        self.writes = []
        self.under_way = {}
        self.state.drop_pending()
        for write in waiting:
            if not write.drafts:
                write.built = []
                write.fail(RoomChanged())
                continue
            try:
                self.build(write, now_ms)
            except Exception as error:
                # Each client gets its own error; none may keep the others' events from being built.
                write.built = []
                write.fail(error)

    def lose(self, error: Exception) -> None:
        """Give this copy of the room up, and fail the writes that wait."""
        self.lost = True
        for write in self.writes:
            write.built = []
            write.fail(error)
        self.writes = []
        self.under_way = {}

    async def finish_writes(self) -> None:
        """Wait until the events that have their places now are stored, or have failed."""
        if self.writes:
            await asyncio.wait([write.done for write in self.writes])

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Let the room's own writes wait: placing an event beside them could never catch up."""
        held = self.held = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self.held = None
            held.set_result(None)

    @property
    def size_bytes(self) -> int:
        """About how much memory the room takes."""
        return _ROOM_BYTES + TRANSACTION_BYTES * len(self.transactions) + self.state.size_bytes


def placed_write(room: LiveRoom, built: list[BuiltEvent], key: bytes | None = None) -> Write:
    """Return the write of events whose places were found for them. It cannot be built again."""
    done = asyncio.get_running_loop().create_future()
    return Write(room=room, drafts=(), event_nids=(), done=done, key=key, built=built)


def new_live_room(identity: Identity, version: RoomVersion, room_nid: int, create: Event) -> LiveRoom:
    """Return a room that is not stored yet. It has no events."""
    push = RoomPush(create.room_id, identity.server_name)
    state = RoomState(version, create, head=Head((), 0, 0), entries={}, events={}, push=push)
    return LiveRoom(identity, version, room_nid, create, state)


def _forget_nothing(event_id: EventId) -> None:
    """Do nothing: events of this room are kept nowhere else."""
