"""The connections in this process's memory, and their states in Postgres for all processes.

A request names a state by its number. A state that is not in memory is read from Postgres. If it is not there either,
the connection is over: M_UNKNOWN_POS, and the client starts from scratch. A state that a response changed is written
before the response is sent. It stays good until the client names a later one, whatever other requests of the client,
perhaps aborted ones, make from the same state meanwhile.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.user_data.sliding_states import MAX_STATES, get_sliding_state, put_sliding_state
from workers.synchrotron.sliding.connection_state import ConnectionState, decode_state, encode_state
from workers.synchrotron.sliding.request import ListRequest, RoomFilter
from workers.synchrotron.sliding.room_lists import ConnectionLists
from workers.synchrotron.users.sync_user import SyncUser

MAX_PER_DEVICE = 10
_ATTEMPTS = 10  # to take a number; each failed one means that another request took it
#: The number of the state of a new connection. It is not stored.
EMPTY = 0


def unknown_pos() -> MatrixError:
    return MatrixError("M_UNKNOWN_POS", "The position has expired or is unknown. Start again without pos")


@dataclass(slots=True, eq=False)
class Connection:
    """One connection in memory."""

    user_id: UserId
    device_id: str
    conn_id: str
    #: The state that the client named last, and those made since, by number.
    states: dict[int, ConnectionState] = field(default_factory=dict)
    #: The counts of the lists in the latest responses, by `pos`.
    counts: OrderedDict[str, Mapping[tuple[str, RoomFilter], int]] = field(default_factory=OrderedDict)
    #: The settled rooms after the latest response (`engine.Progress`), with its state and the request's shape.
    settled: tuple[ConnectionState, object, Mapping[RoomId, tuple[str, ...]]] | None = None
    #: Held while a response is built: overlapping requests share the lists.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _lists: ConnectionLists = field(default_factory=ConnectionLists)
    _lists_state: ConnectionState | None = None

    def settled_for(self, state: ConnectionState, shape: object) -> Mapping[RoomId, tuple[str, ...]]:
        """Return the settled rooms for a request with this state and shape."""
        if self.settled is None or self.settled[0] is not state or self.settled[1] != shape:
            return {}
        return self.settled[2]

    def lists_for(self, state: ConnectionState) -> ConnectionLists:
        """Return the lists for a request with this state. Lists depend on the rooms that the client has been sent."""
        if self._lists_state is not state:
            self._lists, self._lists_state = ConnectionLists(once_joined=self._lists.once_joined), state
        return self._lists

    def note_lists(self, state: ConnectionState) -> None:
        """Note that the lists are now those of this state."""
        self._lists_state = state

    def counts_of(self, pos: str, lists: Mapping[str, ListRequest]) -> dict[str, int] | None:
        """Return the counts of these lists as sent with `pos`, None if unknown. A list that was not sent counts -1."""
        counts = self.counts.get(pos)
        if counts is None:
            return None
        return {name: counts.get((name, one.filter), -1) for name, one in lists.items()}

    def note_counts(self, pos: str, lists: Mapping[str, ListRequest], counts: Mapping[str, int]) -> None:
        self.counts[pos] = {(name, one.filter): counts[name] for name, one in lists.items()}
        if len(self.counts) > MAX_STATES:
            self.counts.popitem(last=False)

    @property
    def size_bytes(self) -> int:
        counts_bytes = 500 * len(self.counts)
        return 1_000 + counts_bytes + sum(state.size_bytes for state in self.states.values()) + self._lists.size_bytes


class Connections:
    """All connections in memory, evicted least recently used first. `source` is the primary."""

    def __init__(self, source: Source, budget_bytes: int, clock: Clock) -> None:
        self._source = source
        self._budget = budget_bytes
        self._clock = clock
        self._connections: OrderedDict[tuple[UserId, str, str], tuple[Connection, int]] = OrderedDict()
        self._bytes = 0

    def get(self, user_id: UserId, device_id: str | None, conn_id: str) -> Connection:
        known = self._connections.get((user_id, device_id or "", conn_id))
        return known[0] if known is not None else Connection(user_id, device_id or "", conn_id)

    def remember(self, connection: Connection) -> None:
        """Keep the connection in memory as the most recently used one."""
        key = (connection.user_id, connection.device_id, connection.conn_id)
        _, before = self._connections.pop(key, (None, 0))
        size = connection.size_bytes
        self._connections[key] = connection, size
        self._bytes += size - before
        while self._bytes > self._budget and len(self._connections) > 1:
            _, (_, gone) = self._connections.popitem(last=False)
            self._bytes -= gone

    async def state(self, connection: Connection, number: int, user: SyncUser) -> ConnectionState:
        """Return the state that the client names. Raises M_UNKNOWN_POS, Unavailable."""
        if number == EMPTY:
            return ConnectionState()
        state = connection.states.get(number)
        if state is None:
            encoded = await get_sliding_state(
                self._source, connection.user_id, connection.device_id, connection.conn_id, number
            )
            if encoded is None:
                raise unknown_pos()
            state = decode_state(encoded, {one.room_nid: one.room_id for one in user.memberships.values()})
            # Another request of this process may have read it meanwhile: there is one object for each state.
            state = connection.states.setdefault(number, state)
        for earlier in [one for one in connection.states if one < number]:
            del connection.states[earlier]
        return state

    async def store(self, connection: Connection, made_from: int, state: ConnectionState) -> int:
        """Store a new state beside the one it was made from, and return its number. Raises Unavailable."""
        encoded, state = encode_state(state)
        for _ in range(_ATTEMPTS):
            number = await put_sliding_state(
                self._source,
                connection.user_id,
                connection.device_id,
                connection.conn_id,
                encoded,
                made_from=made_from,
                now_ms=self._clock.now_ms(),
                max_connections=MAX_PER_DEVICE,
            )
            if number is not None:
                connection.states[number] = state
                while len(connection.states) > MAX_STATES:
                    del connection.states[min(connection.states)]
                return number
        raise Unavailable("Too many requests of this connection overlap. Please try again")
