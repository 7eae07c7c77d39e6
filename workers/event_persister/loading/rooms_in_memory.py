"""The rooms that this process keeps in memory.

A room is read when it is first needed. It is dropped when memory is short, when its slot is not ours any more, or when
another process was seen writing into it. A room with writes under way is not evicted.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable

from shared.core.errors import Unavailable
from shared.core.events import Event, event_from_storage
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.core.slots import slot_of
from shared.metrics.persister import PersisterMetrics
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.events.client_transactions import get_recent_transactions
from shared.storage.events.stored_events import get_events
from shared.storage.push.rules_in_rooms import get_push_groups
from shared.storage.rooms.for_writer import get_current_state, get_room_end
from workers.event_persister.graph.known_events import KnownEvents
from workers.event_persister.graph.states import GraphStates, upon_current
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.room.drafts import Branch, Head, RoomChanged, StateEntry, StateKey
from workers.event_persister.room.event_builder import Identity
from workers.event_persister.room.event_forms import redacted
from workers.event_persister.room.live_room import MAX_TRANSACTIONS, TRANSACTIONS_KEPT_MS, LiveRoom, Parked
from workers.event_persister.room.member_table import LARGE_ROOM, MemberTable
from workers.event_persister.room.room_push import RoomPush
from workers.event_persister.room.room_state import KEPT_TYPES, MEMBER, RoomState
from workers.event_persister.room.state_sizes import USUAL_MEMBER_BYTES, StateSizes

_ROWS_AT_ONCE = 2000
_MEASURE_EVERY = 64  # look-ups between two measurements of a room, which walk its state events


class RoomsInMemory:
    """A cache of rooms. Idle rooms are evicted least recently used first.

    budget_bytes: about how much memory the rooms may take, with their members' push rules and ignore lists.
    on_redacted: see `LiveRoom`.
    """

    def __init__(
        self,
        *,
        database: Database,
        identity: Identity,
        clock: Clock,
        budget_bytes: int,
        metrics: PersisterMetrics,
        on_redacted: Callable[[EventId], None],
        push_rules: PushRules,
    ) -> None:
        self._database = database
        self._identity = identity
        self._clock = clock
        self._budget = budget_bytes
        self._metrics = metrics
        self._on_redacted = on_redacted
        self._push_rules = push_rules
        self._rooms: OrderedDict[RoomId, tuple[LiveRoom, int]] = OrderedDict()
        self._bytes = 0
        self._loads: dict[RoomId, asyncio.Task[LiveRoom | None]] = {}
        self._lookups = 0

    async def get(self, room_id: RoomId) -> LiveRoom | None:
        """Return the room, None if it does not exist here. Callers at the same time share one load."""
        known = self._rooms.get(room_id)
        if known is not None:
            self._rooms.move_to_end(room_id)
            self._lookups += 1
            if self._lookups % _MEASURE_EVERY == 0:
                self.put(known[0])
            return known[0]
        load = self._loads.get(room_id)
        if load is None:
            load = self._loads[room_id] = asyncio.get_running_loop().create_task(self._load(room_id))
            load.add_done_callback(lambda done: self._loads.pop(room_id, None) if done is load else None)
        # Shielded: a client that goes away must not fail the others that wait for the same room.
        return await asyncio.shield(load)

    def put(self, room: LiveRoom) -> None:
        """Keep a room, or measure one that is kept."""
        if room.lost:
            return
        room.on_redacted = self._on_redacted
        size = room.size_bytes
        former = self._rooms.pop(room.room_id, None)
        self._rooms[room.room_id] = (room, size)
        self._bytes += size - (former[1] if former is not None else 0)
        self._make_space()
        self._measure()

    def drop(self, room: LiveRoom) -> None:
        """Drop this copy of a room. The next look-up reads it again."""
        room.lost = True
        known = self._rooms.get(room.room_id)
        if known is not None and known[0] is room:
            del self._rooms[room.room_id]
            self._bytes -= known[1]
            self._measure()

    def drop_foreign(self, owned: Callable[[int], bool]) -> None:
        """Drop the rooms whose slot is not ours. Their writes under way end by themselves, stored or refused."""
        for room, _ in list(self._rooms.values()):
            if not owned(slot_of(room.room_id)):
                self.drop(room)
        # A room that is being read now would be as old as the slot table that allowed it.
        self._loads.clear()

    def _make_space(self) -> None:
        for room_id in list(self._rooms):
            if self._bytes + self._push_rules.size_bytes <= self._budget or len(self._rooms) == 1:
                return
            room, size = self._rooms[room_id]
            if room.writes:
                continue
            room.lost = True
            del self._rooms[room_id]
            self._bytes -= size
            del room  # its members' rules may go with it, before the next look at their size

    def _measure(self) -> None:
        self._metrics.push_rules_bytes.set(self._push_rules.size_bytes)
        self._metrics.rooms.set(len(self._rooms))
        self._metrics.rooms_bytes.set(self._bytes)

    async def _load(self, room_id: RoomId) -> LiveRoom | None:
        room = await load_room(self._database, self._identity, room_id, self._clock.now_ms(), self._push_rules)
        if room is None:
            return None
        self._metrics.room_loads.inc()
        if self._loads.get(room_id) is asyncio.current_task():
            self.put(room)
        else:
            room.lost = True  # our slots changed meanwhile: callers look the room up again
        return room


async def load_room(
    database: Database, identity: Identity, room_id: RoomId, now_ms: int, push_rules: PushRules
) -> LiveRoom | None:
    """Read a room from the database, None if it does not exist here."""
    if "\x00" in room_id:
        return None  # no room has such an id, and PostgreSQL would refuse the parameter
    push = RoomPush(room_id, identity.server_name)
    push_rules.follow(push)
    push.begin_reading()
    async with database.snapshot() as snapshot:
        end = await get_room_end(snapshot, room_id)
        if end is None:
            return None
        version = get_room_version(end.room_version)
        rows = await get_current_state(snapshot, end.room_nid, KEPT_TYPES)
        last_events = await get_events(snapshot, end.room_nid, end.extremities)
        transactions = await get_recent_transactions(
            snapshot, end.room_nid, now_ms - TRANSACTIONS_KEPT_MS, MAX_TRANSACTIONS
        )
        rules = await push_rules.read_room(snapshot, end.room_nid, push)
        groups = await get_push_groups(snapshot, end.room_nid)
    state: dict[StateKey, StateEntry] = {}
    table = MemberTable() if len(rows) >= LARGE_ROOM else None
    events: dict[int, Event] = {}
    sizes = StateSizes()
    for number, row in enumerate(rows):
        if number % _ROWS_AT_ONCE == _ROWS_AT_ONCE - 1:
            await asyncio.sleep(0)
        entry = StateEntry(row.event_nid, row.event_id, row.membership)
        if table is not None and row.type == MEMBER:
            table.put(row.state_key, entry)
        else:
            state[row.type, row.state_key] = entry
        if row.type != MEMBER or row.bytes > USUAL_MEMBER_BYTES:
            sizes.set((row.type, row.state_key), row.bytes)
        if row.membership == "join":
            push.count_member(UserId(row.state_key))
        if row.json is not None:
            event = event_from_storage(version, row.json, row.event_id)
            events[row.event_nid] = redacted(version, event) if row.redacted else event
    create = events[state["m.room.create", ""].event_nid]
    head = Head(tuple((e.event_nid, e.event_id) for e in last_events), end.depth, end.last_ordinal)
    room = LiveRoom(
        identity,
        version,
        end.room_nid,
        create,
        RoomState(version, create, head=head, entries=state, events=events, push=push, table=table, sizes=sizes),
        last_writer=end.last_writer,
        last_position=end.last_position,
        transactions=transactions,
    )
    if end.parked_reason is not None:
        room.parked = Parked(end.parked_reason, float("-inf"))
    await push_rules.fill(push, rules)
    push.evaluator.set_recorded(groups)
    for last in last_events:
        room.state.keep_hash(event_from_storage(version, last.json, last.event_id))
    if len(last_events) > 1:
        try:
            await _load_branches(database, room)
        except RoomChanged:
            raise Unavailable("The room changed while it was read. Try again") from None
    return room


async def _load_branches(database: Database, room: LiveRoom) -> None:
    """Load the states after several extremities."""
    states, known = GraphStates(database), KnownEvents(room, database)
    await known.look_up([event_id for _, event_id in room.state.head.extremities])
    branches: dict[int, Branch] = {}
    for nid, event_id in room.state.head.extremities:
        extremity = known.get(event_id)
        assert extremity is not None
        overlay = await upon_current(room, await states.after(room, extremity))
        branches[nid] = Branch(overlay, extremity.state_nid if extremity.key is None else None)
    room.state.set_branches(branches)
