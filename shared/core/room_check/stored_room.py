"""A stored room, with the data that a check holds in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from shared.core.events import Event
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.state_snapshots import Snapshot

StateKey: TypeAlias = tuple[str, str]

#: `events.status`.
ACCEPTED, SOFT_FAILED, REJECTED, OUTLIER = 0, 1, 2, 3


class EventColumns(NamedTuple):
    """A row of `events`."""

    event_nid: int
    event_id: EventId
    writer: int
    position: int
    ordinal: int | None
    depth: int
    type: str
    state_key: str | None
    sender: UserId
    origin_server_ts: int
    status: int
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    replaces_nid: int | None
    redacted_by: int | None
    redacts_nid: int | None
    anchor: int | None
    back: int | None
    state_nid: int | None
    resolved: bool
    gap: bool
    json: bytes


@dataclass(slots=True, eq=False, kw_only=True)
class Node:
    """A stored event. The other fields are as in `EventColumns`.

    event: with only the content that rules and resolution read (`loading.py`).
    redacted: the redacted form, if it differs in that content.
    """

    nid: int
    event: Event
    writer: int
    position: int
    ordinal: int | None
    status: int
    prev_nids: tuple[int, ...]
    auth_nids: tuple[int, ...]
    replaces_nid: int | None
    redacted_by: int | None
    redacts_nid: int | None
    anchor: int | None
    back: int | None
    state_nid: int | None
    resolved: bool
    gap: bool
    redacted: Event | None = None

    @property
    def key(self) -> StateKey | None:
        return None if self.event.state_key is None else (self.event.type, self.event.state_key)


class LineRow(NamedTuple):
    """A row of `state_changes`."""

    type: str
    state_key: str
    ordinal: int
    event_nid: int | None
    prev_nid: int | None
    writer: int
    position: int


class MembershipRow(NamedTuple):
    """A row of `memberships`."""

    membership: str
    event_nid: int
    sender: UserId
    ordinal: int


@dataclass(slots=True)
class StoredRoom:
    """A room as stored.

    nodes: event number -> event.
    ids: event id -> event.
    damaged: True if an event is missing here because its JSON is no event.
    extremities: None if there is no row.
    current_state: key -> event number.
    gaps: anchor -> ids of the missing events before it.
    awaited: (event id, number of its redaction).
    transactions: event ids.
    """

    room_id: RoomId
    version: RoomVersion
    nodes: dict[int, Node] = field(default_factory=dict)
    ids: dict[EventId, Node] = field(default_factory=dict)
    damaged: bool = False
    extremities: Sequence[int] | None = None
    line: list[LineRow] = field(default_factory=list)
    current_state: dict[StateKey, int] = field(default_factory=dict)
    memberships: dict[UserId, MembershipRow] = field(default_factory=dict)
    snapshots: list[Snapshot] = field(default_factory=list)
    gaps: dict[int, Sequence[EventId]] = field(default_factory=dict)
    awaited: list[tuple[EventId, int]] = field(default_factory=list)
    transactions: list[EventId] = field(default_factory=list)

    def add(self, node: Node) -> None:
        self.nodes[node.nid] = node
        self.ids[node.event.event_id] = node

    def live(self) -> list[Node]:
        """Return the events of the live timeline in their order."""
        return sorted((n for n in self.nodes.values() if n.ordinal is not None), key=lambda n: n.ordinal or 0)

    def is_purged(self) -> bool:
        """Return True if the start of the timeline is gone. Then numbers may refer to events that are not stored."""
        return min((n.ordinal for n in self.nodes.values() if n.ordinal is not None), default=1) > 1
