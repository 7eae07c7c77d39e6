"""Events: storing a batch of them, and reading them."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import asyncpg

from shared.core.errors import SkepError
from shared.core.events.relation import relation_of_json
from shared.core.identifiers import EventId, UserId
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.parameters import array, columns
from shared.storage.engine.pool import Connection, Database, NotWritten
from shared.storage.events.statement import ACCEPTED, COMMIT_EVENTS, COMMIT_GRAPH, COMMIT_MESSAGES
from shared.storage.push.counts import (
    StoredCounts,
    has_push_rows,
    message_args,
    redaction_args,
    state_args,
    stored_counts,
)

#: Uses events_by_id.
_BY_ID = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE event_id = $2 AND room_nid = $1 AND status IN (0, 4)
"""
#: Uses the primary key.
_BY_NIDS = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE room_nid = $1 AND event_nid = ANY($2::bigint[])
"""


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
        """Whether it has nothing that only the graph's form of the statement stores."""
        return self.ordinal is not None and self.state_nid is None and not (self.resolved or self.gap or self.promotes)


class ChangeToStore(NamedTuple):
    """One key of a room's state has changed. at_nid: the event of the batch at which it did, and its ordinal.

    event_nid: what the key holds now; None: it left the state. prev_nid: what it held before, or None.
    """

    at_nid: int
    ordinal: int
    type: str
    state_key: str
    event_nid: int | None
    prev_nid: int | None


class MembershipToStore(NamedTuple):
    """at_nid: as in the change of state that it belongs to; event_nid: the member event; sender: its sender."""

    at_nid: int
    user_id: UserId
    membership: str
    event_nid: int
    sender: UserId
    is_local: bool


@dataclass(slots=True)
class EventBatch:
    """What one statement stores. Order of `events`: that of their positions, ordinals of a room ascending.

    extremities: room -> events that nothing follows after the batch; transactions: (room, key, event id, ms);
    changes, memberships: of the current state; redacted: (room, redacted event, its redaction);
    rooms: (room, room id, version, creator, public, ms); aliases: (alias, room, creator, ms);
    snapshots: with their room; gaps: (room, anchor) -> ids that are missing there now, none: closed;
    awaited: (room, id of an event that is not here, its redaction); arrived: (room, id of an event that was awaited);
    sticky: (event, its ordinal, when it was sent, for how many ms it is sticky).
    own: (room, local user, thread id) -> ordinal of his newest event there.
    """

    events: list[EventToStore] = field(default_factory=list)
    extremities: dict[int, Sequence[int]] = field(default_factory=dict)
    transactions: list[tuple[int, bytes, str, int]] = field(default_factory=list)
    changes: list[ChangeToStore] = field(default_factory=list)
    memberships: list[MembershipToStore] = field(default_factory=list)
    redacted: list[tuple[int, int, int]] = field(default_factory=list)
    rooms: list[tuple[int, str, str, str, bool, int]] = field(default_factory=list)
    aliases: list[tuple[str, int, str, int]] = field(default_factory=list)
    snapshots: list[tuple[int, Snapshot]] = field(default_factory=list)
    gaps: dict[tuple[int, int], Sequence[str]] = field(default_factory=dict)
    awaited: list[tuple[int, str, int]] = field(default_factory=list)
    arrived: list[tuple[int, str]] = field(default_factory=list)
    sticky: list[tuple[int, int, int, int]] = field(default_factory=list)
    own: dict[tuple[int, str, str], int] = field(default_factory=dict)

    @property
    def is_graph(self) -> bool:
        """Whether it needs the whole form of the statement."""
        parts = self.snapshots or self.gaps or self.awaited or self.arrived or self.sticky
        return bool(parts) or not all(event.is_usual for event in self.events)


class StoredBatch(NamedTuple):
    """positions: of the batch's events, in their order, ascending; counts: what they count."""

    positions: list[int]
    counts: StoredCounts


class StatementRefused(SkepError):
    """PostgreSQL refused the statement: nothing was written. One event of the batch may be the cause.

    constraint: the violated constraint's name, "" for other reasons.
    passing: True for a lock or a time limit, so that the same statement may succeed later.
    outage: True if the database itself is in trouble, and no event is to blame.
    """

    def __init__(self, constraint: str, message: str, *, passing: bool = False, outage: bool = False) -> None:
        super().__init__(message)
        self.constraint = constraint
        self.passing = passing
        self.outage = outage


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as stored; redacted_by: the redaction that applies to it."""

    event_nid: int
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId
    redacted_by: int | None
    json: bytes


async def commit_events(write: FencedWrite, batch: EventBatch) -> StoredBatch:
    """Store the batch.

    Raises StatementRefused (nothing was written), Fenced (the lease is lost, or the outcome unknown).
    """
    events = batch.events
    push_rows = [has_push_rows(e) for e in events]
    relations = [relation_of_json(e.json) for e in events]
    args: list[Any] = [
        [e.room_nid for e in events],
        [e.event_nid for e in events],
        [e.event_id for e in events],
        [e.ordinal for e in events],
        [e.depth for e in events],
        [e.type for e in events],
        [e.state_key for e in events],
        [e.sender for e in events],
        [e.origin_server_ts for e in events],
        [array(e.prev_nids) for e in events],
        [array(e.auth_nids) for e in events],
        [e.replaces_nid for e in events],
        [e.redacted_by for e in events],
        [e.redacts_nid for e in events],
        [e.txn_device for e in events],
        [e.txn_id for e in events],
        [e.json for e in events],
        [relation and relation.event_id for relation in relations],
        [relation and relation.rel_type for relation in relations],
        [e.push.thread_id or None for e in events],
        [array([group for group, _, _ in e.push.groups]) if e.push.groups else None for e in events],
        push_rows,
        list(batch.extremities),
        [array(nids) for nids in batch.extremities.values()],
        *columns(batch.transactions, 4),
        *message_args(events, batch.own),
    ]
    statement = COMMIT_MESSAGES
    is_graph = batch.is_graph
    if is_graph or batch.changes or batch.rooms or batch.redacted or True in push_rows:
        statement = COMMIT_EVENTS
        args += _state_args(batch)
    if is_graph:
        statement = COMMIT_GRAPH
        args += _graph_args(batch)
    try:
        row = await write(statement, *args, streams=("events",))
    except NotWritten as error:
        raise StatementRefused("", str(error.__cause__), passing=error.is_lock, outage=not error.is_lock) from error
    except asyncpg.PostgresError as error:
        constraint = getattr(error, "constraint_name", None) or ""
        raise StatementRefused(constraint, f"{type(error).__name__} {constraint}") from error
    positions: list[int] = row["positions"]
    # Readers take this writer's positions as the order of its events: anything else would reorder rooms for good.
    assert row["event_nids"] == args[1], "events were stored in another order"
    assert all(a < b for a, b in itertools.pairwise(positions)), "positions do not ascend"
    return StoredBatch(positions, stored_counts(events, row))


async def get_event_by_id(database: Database, room_nid: int, event_id: EventId) -> StoredEvent | None:
    """Return an accepted event of the room; also one that was purged from its timeline and stays as state."""
    row = await database.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else _stored(row)


async def get_events(source: Database | Connection, room_nid: int, event_nids: Sequence[int]) -> list[StoredEvent]:
    """Return the room's events with these ids, in no particular order; unknown ones are left out."""
    return [_stored(row) for row in await source.fetch(_BY_NIDS, room_nid, list(event_nids))]


def _stored(row: asyncpg.Record) -> StoredEvent:
    return StoredEvent(**row)


def _state_args(batch: EventBatch) -> list[Any]:
    return [
        *columns(batch.changes, 6),
        *columns(batch.memberships, 6),
        *redaction_args(batch.events, batch.redacted),
        *columns(batch.rooms, 6),
        *columns(batch.aliases, 4),
        *state_args(batch.events),
    ]


def _graph_args(batch: EventBatch) -> list[Any]:
    graph = [(e.status, e.anchor, e.back, e.state_nid, e.resolved or None, e.gap or None) for e in batch.events]
    snapshots = [
        (room_nid, s.nid, s.parent, s.base, s.steps, array(s.added), array(s.removed))
        for room_nid, s in batch.snapshots
    ]
    gaps = [(room_nid, anchor, _text_array(missing)) for (room_nid, anchor), missing in batch.gaps.items()]
    return [
        *columns(graph, 6),
        *columns(snapshots, 7),
        *columns(gaps, 3),
        *columns(batch.awaited, 3),
        *columns(batch.arrived, 2),
        *columns(batch.sticky, 4),
    ]


def _text_array(texts: Sequence[str]) -> str:
    quoted = (text.replace("\\", "\\\\").replace('"', '\\"') for text in texts)
    return "{" + ",".join(f'"{text}"' for text in quoted) + "}"
