"""The records of draining: what it is told about staged PDUs, and what it asks its driver to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from shared.core.federation.back_off import BackOff
from shared.core.federation.wake_up import TimePassed, WakeAt
from shared.core.identifiers import EventId, ServerName


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainLimits:
    """The bounds of one process.

    places: deliveries at once.
    slow_places: deliveries at once, beside these, of rooms whose previous one was slow.
    history_places: deliveries of history at once, of `places`.
    places_per_peer: deliveries at once with PDUs of one server.
    fetches: fetches at once.
    slow_fetches: fetches at once, of `fetches`, from servers whose latest fetch was slow.
    fetches_per_peer: fetches at once from one server.
    batch: PDUs in one delivery.
    quantum: the cost that a room may spend in each of its turns. At least the greatest cost of a PDU.
    longest_debt: the most that a delivery dearer than expected takes from the room's next turns.
    cost_per_ms: the cost of each ms that a delivery takes.
    slow_ms: a delivery that takes longer makes its room a slow one.
    slow_fetch_ms: a fetch that takes longer makes its server a slow one.
    slow_peers: slow servers that are remembered.
    window: PDUs of one room in memory. Further ones are read when it is their turn.
    rooms: rooms in memory. Further ones are read when there is room.
    missing_rounds, missing_ms: after this many requests for missing events, or this long, the state is fetched.
    read_rooms_ms: the pause between two searches for rooms.
    back_off: of PDUs, and of rooms.
    """

    places: int = 8
    slow_places: int = 32
    history_places: int = 2
    places_per_peer: int = 4
    fetches: int = 32
    slow_fetches: int = 16
    fetches_per_peer: int = 4
    batch: int = 50
    quantum: int = 131_072
    longest_debt: int = 1_310_720
    cost_per_ms: int = 1_024
    slow_ms: int = 1_000
    slow_fetch_ms: int = 2_000
    slow_peers: int = 1_000
    window: int = 100
    rooms: int = 5_000
    missing_rounds: int = 3
    missing_ms: int = 20_000
    read_rooms_ms: int = 1_000
    back_off: BackOff = field(default_factory=lambda: BackOff(first_ms=1_000, longest_ms=600_000))


@dataclass(frozen=True, slots=True, kw_only=True)
class StagedPdu:
    """A row of `staged_pdus`, without the JSON.

    position: grows with each row.
    cost: the size of the JSON in bytes, and a fixed part.
    first_failed_ms: when it was put off first; None if it never was.
    is_history: True if it was fetched to fill a gap.
    """

    room: int
    position: int
    event_id: EventId
    origin: ServerName
    cost: int
    first_failed_ms: int | None = None
    is_history: bool = False


class Outcome(Enum):
    """The answer of the room's owner about a PDU.

    FINAL: it is stored, rejected or dropped. The row goes.
    MISSING: events or the state before it are missing. It waits for a fetch.
    LATER: a key is missing, or it failed by itself. It alone is tried again.
    BUSY: the owner is slow or away. The room is tried again.
    """

    FINAL = "final"
    MISSING = "missing"
    LATER = "later"
    BUSY = "busy"


class FetchKind(Enum):
    """The two questions to another server: for the events between, or for the state before the earliest one."""

    MISSING_EVENTS = "missing events"
    STATE = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOff:
    """The columns of a row that is tried again."""

    position: int
    first_failed_ms: int
    next_try_ms: int


# Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Staged:
    """PDUs of one room were staged, by this process or another one. Their rows are committed."""

    room: int
    pdus: Sequence[StagedPdu]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsFound:
    """The answer to `FindRooms`: (room, its earliest next try). complete: True if no other room has rows."""

    rooms: Sequence[tuple[int, int]]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRead:
    """The answer to `ReadRoom`.

    pdus: rows whose next try has come, live ones before history, then by position.
    more: True if others were left out because of the limit.
    next_try_ms: the earliest next try of the rows that are not due; None without any.
    """

    room: int
    pdus: Sequence[StagedPdu]
    more: bool
    next_try_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A delivery has ended. outcomes: of each PDU. One without an outcome is tried again with its room."""

    delivery: int
    outcomes: Mapping[int, Outcome]
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A fetch has ended. helped: True if events or a state have come, so that the waiting PDUs are worth a try."""

    fetch: int
    helped: bool
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The statement of `WriteOutcomes` has committed."""

    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryRoom:
    """Try a room now: its owner is back, or an operator asks for it."""

    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomGone:
    """The room has another owner now. Late answers change nothing."""

    room: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomsMayWait:
    """There may be rows of rooms that this process has not seen: at the start, and when slots come."""


DrainEvent: TypeAlias = (
    Staged | RoomsFound | RoomRead | Answered | Fetched | Written | RetryRoom | RoomGone | RoomsMayWait | TimePassed
)

# Actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliver:
    """Read the JSON of these rows, verify what is not, and give them to the room's owner, within a time limit."""

    delivery: int
    room: int
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Ask a server for what a room lacks, within a time limit. positions: of the PDUs that wait for it."""

    fetch: int
    room: int
    peer: ServerName
    kind: FetchKind
    positions: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteOutcomes:
    """Delete and update rows, then tell. Those of many rooms may go in one statement."""

    room: int
    delete: tuple[int, ...]
    put_off: tuple[PutOff, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRoom:
    """Read the rows of a room that are due."""

    room: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FindRooms:
    """Find the rooms of this process's slots that have rows, by their earliest next try."""

    limit: int


DrainAction: TypeAlias = Deliver | Fetch | WriteOutcomes | ReadRoom | FindRooms | WakeAt
