"""The connections in this process's memory, and their states in Postgres for all processes.

A request names a state by its number. A state that is not in memory is read from Postgres. If it is not there either,
the connection is over: M_UNKNOWN_POS, and the client starts from scratch. A state that a response changed is written
before the response is sent. It stays good until the client names a later one, whatever other requests of the client,
perhaps aborted ones, make from the same state meanwhile.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from shared.cache.byte_budget import OWNED_ENTRY_BYTES, SharedBudgetCache
from shared.cache.sizes import deep_size, text_size
from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.user_data.sliding_states import MAX_STATES, get_sliding_state, put_sliding_state
from workers.synchrotron.sliding.connection_state import ConnectionState, decode_state, encode_state
from workers.synchrotron.sliding.request import ListRequest
from workers.synchrotron.sliding.room_lists import ConnectionLists
from workers.synchrotron.users.sync_user import SyncUser

MAX_PER_DEVICE = 10
#: What the connections of one user may take of the budget: half of it. A larger one is read again for each request.
_SHARES = 2
_CONNECTION_BYTES = 3_000  # with its lock, dictionaries and key
_COUNTS_BYTES = 500  # those of one response, without the texts
_COUNT_BYTES = 50  # of one list
_SETTLED_BYTES = 130  # a room's place, and the names of its lists
_ATTEMPTS = 10  # to take a number; each failed one means that another request took it
#: The number of the state of a new connection. It is not stored.
EMPTY = 0


Lists: TypeAlias = Mapping[str, ListRequest]
#: The requested lists, and the name and scope of each extension.
Shape: TypeAlias = tuple[Lists, Sequence[tuple[str, object]]]


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
    #: The requested lists and their counts in the latest responses, by `pos`.
    counts: OrderedDict[str, tuple[Lists, Mapping[str, int]]] = field(default_factory=OrderedDict)
    #: The settled rooms after the latest response (`engine.Progress`), with its state and the request's shape.
    settled: tuple[ConnectionState, Shape, Mapping[RoomId, tuple[str, ...]]] | None = None
    #: Held while a response is built: overlapping requests share the lists.
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _lists: ConnectionLists = field(default_factory=ConnectionLists)
    _lists_state: ConnectionState | None = None
    #: The requested lists in `counts`, each once, and their size.
    _measured: tuple[Sequence[Lists], int] = ((), 0)

    def settled_for(self, state: ConnectionState, shape: Shape) -> Mapping[RoomId, tuple[str, ...]]:
        """Return the settled rooms for a request with this state and shape."""
        if self.settled is None or self.settled[0] is not state or self.settled[1] != shape:
            return {}
        return self.settled[2]

    def settle(self, state: ConnectionState, shape: Shape, rooms: Mapping[RoomId, tuple[str, ...]]) -> None:
        """Note the settled rooms after a response, whose counts have been noted."""
        lists, scopes = shape
        latest, _ = next(reversed(self.counts.values()))
        self.settled = state, (latest if latest == lists else lists, scopes), rooms

    def lists_for(self, state: ConnectionState) -> ConnectionLists:
        """Return the lists for a request with this state. Lists depend on the rooms that the client has been sent."""
        if self._lists_state is not state:
            self._lists, self._lists_state = ConnectionLists(once_joined=self._lists.once_joined), state
        return self._lists

    def note_lists(self, state: ConnectionState) -> None:
        """Note that the lists are now those of this state."""
        self._lists_state = state

    def counts_of(self, pos: str, lists: Lists) -> dict[str, int] | None:
        """Return the counts of these lists as sent with `pos`, None if unknown. A list that was not sent counts -1."""
        known = self.counts.get(pos)
        if known is None:
            return None
        former, counts = known
        return {
            name: counts[name] if name in former and former[name].filter == one.filter else -1
            for name, one in lists.items()
        }

    def note_counts(self, pos: str, lists: Lists, counts: Mapping[str, int]) -> None:
        if self.counts:
            latest, _ = next(reversed(self.counts.values()))
            if latest == lists:
                lists = latest  # usually: one object for all responses
        self.counts[pos] = lists, counts
        if len(self.counts) > MAX_STATES:
            self.counts.popitem(last=False)

    @property
    def size_bytes(self) -> int:
        """The memory that it takes. Requested lists are measured when they differ from those of the request before."""
        size = _CONNECTION_BYTES + text_size(self.conn_id) + self._lists.size_bytes
        size += sum(state.size_bytes for state in self.states.values())
        requested = [*{id(lists): lists for lists, _ in self.counts.values()}.values()]
        if [*map(id, requested)] != [*map(id, self._measured[0])]:
            self._measured = requested, deep_size(*requested)
        size += self._measured[1]
        for pos, (_, counts) in self.counts.items():
            size += _COUNTS_BYTES + text_size(pos) + _COUNT_BYTES * len(counts)
        return size if self.settled is None else size + _SETTLED_BYTES * len(self.settled[2])


class Connections:
    """All connections in memory, evicted least recently used first. `source` is the primary."""

    def __init__(self, source: Source, budget_bytes: int, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._connections: SharedBudgetCache[tuple[UserId, str, str], Connection] = SharedBudgetCache(
            budget_bytes, budget_bytes // _SHARES
        )

    def get(self, user_id: UserId, device_id: str | None, conn_id: str) -> Connection:
        known = self._connections.get((user_id, device_id or "", conn_id))
        return known if known is not None else Connection(user_id, device_id or "", conn_id)

    def remember(self, connection: Connection) -> None:
        """Keep the connection in memory as the most recently used one."""
        key = (connection.user_id, connection.device_id, connection.conn_id)
        self._connections.put(key, connection, OWNED_ENTRY_BYTES + connection.size_bytes, connection.user_id)

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
