"""A batch of events with everything that is stored along with them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.state_snapshots import Snapshot

ACCEPTED, SOFT_FAILED, REJECTED, OUTLIER = 0, 1, 2, 3  # events.status


@dataclass(frozen=True, slots=True, kw_only=True)
class EventToStore:
    """One event.

    ordinal: its place in the live timeline. None: it is not in it.
    json: the PDU, canonical.
    anchor, back: its place in history.
    state_nid: snapshot of the state before it. None: that state is the room's line before its ordinal.
    resolved, gap: see `shared/core/rows/`.
    promotes: True if it is stored already, as an outlier, and gets its place now.
    push: what it counts. Of live events only.
    """

    room_nid: int
    event_nid: int
    event_id: EventId
    ordinal: int | None
    depth: int
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    json: bytes
    replaces_nid: int | None = None
    redacted_by: int | None = None
    redacts_nid: int | None = None
    txn_device: str | None = None
    txn_id: str | None = None
    status: int = ACCEPTED
    anchor: int | None = None
    back: int | None = None
    state_nid: int | None = None
    resolved: bool = False
    gap: bool = False
    promotes: bool = False
    push: EventOutcome = COUNTS_NOTHING

    @property
    def is_usual(self) -> bool:
        """True if it has nothing that only the graph's form of the statement stores."""
        return self.ordinal is not None and self.state_nid is None and not (self.resolved or self.gap or self.promotes)


class ChangeToStore(NamedTuple):
    """A change of one key of a room's state.

    at_nid: the event of the batch at which the key changed.
    ordinal: of that event.
    event_nid: the event that the key holds now. None: the key left the state.
    prev_nid: the event that it held before, if any.
    """

    at_nid: int
    ordinal: int
    type: str
    state_key: str
    event_nid: int | None
    prev_nid: int | None


class MembershipToStore(NamedTuple):
    """A membership that changed.

    at_nid: as in the change of state that it belongs to.
    event_nid: the member event.
    sender: its sender.
    """

    at_nid: int
    user_id: UserId
    membership: str
    event_nid: int
    sender: UserId
    is_local: bool


class TransactionToStore(NamedTuple):
    """A client's transaction and the event that it was answered with."""

    room_nid: int
    key: bytes
    event_id: EventId
    created_ms: int


class RedactionToStore(NamedTuple):
    """event_nid: the redacted event. redacted_by: its redaction."""

    room_nid: int
    event_nid: int
    redacted_by: int


class RoomToStore(NamedTuple):
    room_nid: int
    room_id: RoomId
    room_version: str
    creator: str
    is_public: bool
    created_ms: int


class AliasToStore(NamedTuple):
    alias: str
    room_nid: int
    creator: str
    created_ms: int


class AwaitedRedaction(NamedTuple):
    """A redaction of an event that is not here yet."""

    room_nid: int
    event_id: EventId
    redaction_nid: int


class ArrivedEvent(NamedTuple):
    """An event that redactions waited for, and that is here from now on."""

    room_nid: int
    event_id: EventId


class StickyToStore(NamedTuple):
    """An event that is sticky for some time from when it was sent, or from now if its sender's clock is ahead."""

    event_nid: int
    ordinal: int
    sent_ms: int
    sticky_ms: int


@dataclass(slots=True, kw_only=True)
class EventBatch:
    """Everything that one statement stores.

    events: in the order of their positions; the ordinals of a room ascend.
    extremities: room -> events that nothing follows after the batch.
    changes, memberships: of the current state.
    snapshots: each with its room.
    gaps: (room, anchor) -> ids that are missing there now. None at all: the gap is closed.
    own: (room, local user, thread id) -> ordinal of the user's newest event there.
    """

    events: list[EventToStore] = field(default_factory=list)
    extremities: dict[int, Sequence[int]] = field(default_factory=dict)
    transactions: list[TransactionToStore] = field(default_factory=list)
    changes: list[ChangeToStore] = field(default_factory=list)
    memberships: list[MembershipToStore] = field(default_factory=list)
    redacted: list[RedactionToStore] = field(default_factory=list)
    rooms: list[RoomToStore] = field(default_factory=list)
    aliases: list[AliasToStore] = field(default_factory=list)
    snapshots: list[tuple[int, Snapshot]] = field(default_factory=list)
    gaps: dict[tuple[int, int], Sequence[str]] = field(default_factory=dict)
    awaited: list[AwaitedRedaction] = field(default_factory=list)
    arrived: list[ArrivedEvent] = field(default_factory=list)
    sticky: list[StickyToStore] = field(default_factory=list)
    own: dict[tuple[int, UserId, str], int] = field(default_factory=dict)

    @property
    def is_graph(self) -> bool:
        """True if it needs the whole form of the statement."""
        parts = self.snapshots or self.gaps or self.awaited or self.arrived or self.sticky
        return bool(parts) or not all(event.is_usual for event in self.events)
