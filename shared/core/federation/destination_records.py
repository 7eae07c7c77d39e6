"""The records of a destination queue: what it is told, what it asks its driver to do, and the rows that it keeps."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

from shared.core.federation.back_off import BackOff
from shared.core.federation.wake_up import TimePassed, WakeAt
from shared.core.identifiers import ServerName

#: What has an order of its own, and can be read again: a room, by its number, or a kind of EDU that is stored, by its
#: name. Its items have ordinals.
Line: TypeAlias = int | str

MAX_PDUS = 50
MAX_EDUS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimits:
    """The bounds of one queue.

    pending_pdus: events in memory beside those in flight. Beyond this, the destination is behind.
    pending_edus: EDUs in memory. Beyond this, stored ones are behind, and of the others the oldest are lost.
    lines: lines in memory that are behind and whose rows are saved. The others are read when it is their turn.
    all_missed: a room in which a peer missed more events gets its extremities, state and memberships only.
    restart_spread_ms: within this time after a restart, destinations that are behind are tried.
    heard_wait_ms: the longest wait after we hear from a peer that did not answer before.
    heard_longest_ms: the same, while we hear from a peer that still does not answer. It doubles up to this.
    """

    pending_pdus: int = 250
    pending_edus: int = 200
    lines: int = 100
    all_missed: int = 100
    restart_spread_ms: int = 2_000
    heard_wait_ms: int = 1_000
    heard_longest_ms: int = 600_000
    back_off: BackOff = field(default_factory=BackOff)


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One PDU or EDU that goes out. One record serves all destinations.

    line: None for an EDU that is lost in an outage, such as typing.
    ordinal: of the event in its room, or of the EDU in its line.
    content_id: the event id, or a digest of the EDU: equal for equal content only.
    at_ms: when it was stored or made. It is the same whenever it is read.
    mark: the number of the save during which it was given to the queues; 0 if it was read from the database.
    merge_key: a later EDU with the same key replaces this one. "" for none.
    edu: the EDU as JSON. None for PDUs, which the driver reads when it sends them.
    """

    line: Line | None
    ordinal: int
    content_id: str
    at_ms: int
    mark: int = 0
    merge_key: str = ""
    edu: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A transaction. A repeat of it is equal in all parts.

    transaction_id: a hash of the destination and of the content.
    origin_server_ts: the time of its latest item.
    """

    transaction_id: str
    origin_server_ts: int
    pdus: tuple[Item, ...]
    edus: tuple[Item, ...]


class Part(Enum):
    """A part of what a peer missed in a line.

    ALL: every item that goes to the peer.
    EXTREMITIES: the newest extremities of the room among the events that go to the peer; if none do, its newest event.
    STATE: state events, without the memberships that do not concern the peer's users.
    MEMBERSHIPS: memberships that concern the peer's users.
    """

    ALL = "all"
    EXTREMITIES = "extremities"
    STATE = "state"
    MEMBERSHIPS = "memberships"


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRequest:
    """A request to read a part of a line.

    first: the least ordinal to read.
    last: the greatest ordinal to read, None to read up to the newest one.
    limit: the most items to return.
    """

    line: Line
    part: Part
    first: int
    last: int | None
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LinePage:
    """The part of a line that was read.

    items: by ordinal, without those that do not go to this peer.
    last: the greatest ordinal of the line when it was read, or that of the request.
    more: True if items up to `last` were left out because of the limit.
    missed: the number of items of part ALL from `first` up to `last`, counted up to `all_missed` + 1.
    joined: False if the peer has no joined user in the room.
    """

    line: Line
    items: Sequence[Item]
    last: int
    more: bool
    missed: int = 0
    joined: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class MissedLine:
    """A stored line that is behind. newest: the greatest ordinal of the line now."""

    line: Line
    first: int
    newest: int


# Events


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """The rows of the destination were read. It is the first event of a queue, if there are rows.

    failing_since_ms, retry_at_ms: of the destination's row; None without one.
    is_behind: True if there are rows of lines.
    """

    failing_since_ms: int | None
    retry_at_ms: int | None
    is_behind: bool
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueued:
    item: Item


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The peer answered 200. attempt: of `Send`."""

    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The peer did not answer 200, or not in time. The request is over.

    attempt: of `Send`.
    retry_after_ms: the wait that the peer asks for.
    """

    attempt: int
    jitter: float
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A request that the peer signed has arrived here."""

    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesFound:
    """The answer to `FindLines`. complete: True if there are no other rows."""

    read: int
    lines: Sequence[MissedLine]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LinesRead:
    """The answer to `ReadLines`: a page for each request."""

    read: int
    pages: Sequence[LinePage]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFailed:
    """The database did not answer."""

    read: int
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SaveDue:
    """Ask for the rows to save, in the statement that saves the vector as it was when mark `mark` ended."""

    mark: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """The statement with these rows has committed."""

    save: "Save"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryShort:
    """The process has too many pending items: keep them as rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """The slot goes to another owner. After the answer of what is in flight comes a last `SaveDue`."""


QueueEvent: TypeAlias = (
    Restored
    | Enqueued
    | Delivered
    | Failed
    | Heard
    | TimePassed
    | LinesFound
    | LinesRead
    | ReadFailed
    | SaveDue
    | Saved
    | MemoryShort
    | Stopping
)

# Actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """Send the transaction, within a time limit, and tell how it ended, once."""

    attempt: int
    transaction: Transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class FindLines:
    """Read the rows of the destination, those with the smallest (newest - first) first."""

    read: int
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadLines:
    """Read these lines, with one statement."""

    read: int
    requests: tuple[LineRequest, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LineRow:
    """The change of one row.

    first: the first ordinal missed; None to delete the row.
    keep_existing: True to leave a row that exists as it is: its `first` is lower.
    """

    line: Line
    first: int | None
    keep_existing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FailingRow:
    """The row of the destination itself. Both are None to delete it."""

    failing_since_ms: int | None
    retry_at_ms: int | None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Save:
    """Write these rows. failing: None if the destination's row is as it should be."""

    server: ServerName
    lines: tuple[LineRow, ...]
    failing: FailingRow | None


QueueAction: TypeAlias = Send | WakeAt | FindLines | ReadLines | Save
