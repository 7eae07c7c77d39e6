"""The connections in this process's memory, and their states in Postgres for all processes.

A request names a state by its number. A state that is not in memory is read from Postgres. If it is not there either,
the connection is over: M_UNKNOWN_POS, and the client starts from scratch. A state that a response changed is written
before the response is sent.
"""

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field

from shared.core.errors import MatrixError
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Source
from shared.storage.user_data.sliding_connections import StoredConnection, get_connection, put_connection
from workers.synchrotron.sliding.connection_state import ConnectionState, decode_state, encode_state
from workers.synchrotron.sliding.request import ListRequest, RoomFilter
from workers.synchrotron.sliding.room_lists import ConnectionLists
from workers.synchrotron.users.sync_user import SyncUser

MAX_PER_DEVICE = 10
_ATTEMPTS = 3
#: The number of the state of a new connection. It is not stored.
EMPTY = 0


def unknown_pos() -> MatrixError:
    return MatrixError("M_UNKNOWN_POS", "The position has expired or is unknown. Start again without pos")


@dataclass(slots=True)
class Connection:
    """One connection in memory."""

    user_id: str
    device_id: str
    conn_id: str
    #: The number of the stored row as far as this process knows. None: unknown.
    number: int | None = None
    #: The latest state and the one it was made from, by number.
    states: dict[int, ConnectionState] = field(default_factory=dict)
    lists: ConnectionLists = field(default_factory=ConnectionLists)
    #: The counts of lists in the latest response.
    counts: dict[tuple[str, RoomFilter], int] = field(default_factory=dict)
    #: The settled rooms after the latest response (`engine.Progress`), with its state and the request's shape.
    settled: tuple[ConnectionState, object, Mapping[str, tuple[str, ...]]] | None = None

    def settled_for(self, state: ConnectionState, shape: object) -> Mapping[str, tuple[str, ...]]:
        """Return the settled rooms for a request with this state and shape."""
        if self.settled is None or self.settled[0] is not state or self.settled[1] != shape:
            return {}
        return self.settled[2]

    def counts_of(self, lists: Mapping[str, ListRequest]) -> dict[str, int] | None:
        """Return the counts of these lists as last sent, None if unknown. A list that was not sent counts -1."""
        if not self.counts:
            return None
        return {name: self.counts.get((name, one.filter), -1) for name, one in lists.items()}

    def note_counts(self, lists: Mapping[str, ListRequest], counts: Mapping[str, int]) -> None:
        self.counts = {(name, one.filter): counts[name] for name, one in lists.items()}

    @property
    def size_bytes(self) -> int:
        return 1_000 + sum(state.size_bytes for state in self.states.values()) + self.lists.size_bytes


class Connections:
    """All connections in memory, evicted least recently used first. `source` is the primary."""

    def __init__(self, source: Source, budget_bytes: int, clock: Clock) -> None:
        self._source = source
        self._budget = budget_bytes
        self._clock = clock
        self._connections: OrderedDict[tuple[str, str, str], tuple[Connection, int]] = OrderedDict()
        self._bytes = 0

    def get(self, user_id: str, device_id: str | None, conn_id: str) -> Connection:
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
        """Return the state with this number. Raises M_UNKNOWN_POS, Unavailable."""
        if number == EMPTY:
            return ConnectionState()
        if number not in connection.states:
            row = await self._read(connection)
            found = {} if row is None else {row.number: row.state, row.prior_number: row.prior_state}
            if not found.get(number):
                raise unknown_pos()
            room_ids = {one.room_nid: one.room_id for one in user.memberships.values()}
            connection.states = {number: decode_state(found[number], room_ids)}
        return connection.states[number]

    async def store(self, connection: Connection, made_from: int, state: ConnectionState) -> int:
        """Store a new state beside the one it was made from, and return its number.

        Raises M_UNKNOWN_POS if other responses came between, since the client cannot have received both; Unavailable.
        """
        encoded, state = encode_state(state)
        for _ in range(_ATTEMPTS):
            if connection.number is None:
                await self._read(connection)
            expected = connection.number or 0
            now_ms = self._clock.now_ms()
            # Numbers of a connection that was removed since are not used again.
            number = max(expected + 1, now_ms)
            if await put_connection(
                self._source,
                connection.user_id,
                connection.device_id,
                connection.conn_id,
                expected=expected,
                number=number,
                state=encoded,
                made_from=made_from,
                now_ms=now_ms,
                max_connections=MAX_PER_DEVICE,
            ):
                before = connection.states.get(made_from)
                connection.states = {number: state} if before is None else {made_from: before, number: state}
                connection.number = number
                return number
            row = await self._read(connection)
            if row is None or made_from not in (EMPTY, row.number, row.prior_number):
                break
        raise unknown_pos()

    async def _read(self, connection: Connection) -> StoredConnection | None:
        row = await get_connection(self._source, connection.user_id, connection.device_id, connection.conn_id)
        connection.number = 0 if row is None else row.number
        return row
