"""The one fenced statement that stores a batch of events with everything that belongs to them.

The statement comes in three forms made of the same parts, since parts with nothing to do still cost their start:
messages alone; with changes of the state; and events from other servers, with a place of their own in the graph.

Every part takes its rows from the fence. Parts about state take position and room from `ev`, the events just inserted,
so that they can never differ from their event's.
"""

from collections.abc import Sequence
from typing import NamedTuple

from shared.core.identifiers import EventId, UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.statements import Integer, SmallInt, column_names, columns, parameters
from shared.storage.events.batch import (
    OUTLIER,
    REJECTED,
    AliasToStore,
    ArrivedEvent,
    AwaitedRedaction,
    ChangeToStore,
    MembershipToStore,
    RoomToStore,
    StickyToStore,
    TransactionToStore,
)
from shared.storage.push.statement_parts import (
    MESSAGE_PARTS,
    MESSAGE_RESULT,
    REDACTIONS,
    STATE_PARTS,
    STATE_RESULT,
    PushRows,
    PushTotals,
    RedactedEvent,
)


@columns
class EventColumns:
    """The events, in the batch's order. Columns of arrays are text, since the arrays differ in length."""

    room_nid: list[int]
    event_nid: list[int]
    event_id: list[EventId]
    ordinal: list[int | None]
    depth: list[int]
    type: list[str]
    state_key: list[str | None]
    sender: list[UserId]
    origin_server_ts: list[int]
    prev_nids: list[str]
    auth_nids: list[str]
    replaces_nid: list[int | None]
    redacted_by: list[int | None]
    redacts_nid: list[int | None]
    txn_device: list[str | None]
    txn_id: list[str | None]
    json: list[bytes]
    relates_to: list[str | None]
    rel_type: list[str | None]
    thread_id: list[str | None]
    push_groups: list[str | None]
    has_push_rows: list[bool | None]


_ARRAYS = ("prev_nids", "auth_nids", "push_groups")


@columns
class GraphColumns:
    """More columns of the same events."""

    status: list[SmallInt]
    anchor: list[int | None]
    back: list[Integer | None]
    state_nid: list[int | None]
    resolved: list[bool | None]
    gap: list[bool | None]


class Extremities(NamedTuple):
    """A room and the events that nothing follows after the batch, as the text of an array."""

    room_nid: int
    event_nids: str


class SnapshotToStore(NamedTuple):
    """added, removed: numbers of events, as the text of an array."""

    room_nid: int
    nid: int
    parent: int | None
    base: int | None
    steps: Integer
    added: str
    removed: str


class GapToStore(NamedTuple):
    """missing: ids of the missing events, as the text of an array. An empty one closes the gap."""

    room_nid: int
    anchor: int
    missing: str


@parameters
class CommitMessages:
    events: EventColumns
    extremities: Sequence[Extremities]
    transactions: Sequence[TransactionToStore]
    push: PushTotals


@parameters
class CommitEvents(CommitMessages):
    changes: Sequence[ChangeToStore]
    memberships: Sequence[MembershipToStore]
    redactions: Sequence[RedactedEvent]
    rooms: Sequence[RoomToStore]
    aliases: Sequence[AliasToStore]
    push_rows: PushRows


@parameters
class CommitGraph(CommitEvents):
    graph: GraphColumns
    snapshots: Sequence[SnapshotToStore]
    gaps: Sequence[GapToStore]
    awaited: Sequence[AwaitedRedaction]
    arrived: Sequence[ArrivedEvent]
    sticky: Sequence[StickyToStore]


def _events(names: Sequence[str], arrays: str, conflict: str = "") -> str:
    """Return the part that inserts the events.

    Positions are drawn above the sort, so they ascend in the batch's order (a test checks it).
    """
    values = ", ".join(f"u.{name}::bigint[]" if name in _ARRAYS else f"u.{name}" for name in names)
    listed = ", ".join(names)
    return f"""
    INSERT INTO events (writer, position, {listed})
    SELECT :lease, nextval('stream_events'), {values}
    FROM (SELECT a.* FROM fence, unnest({arrays}) WITH ORDINALITY AS a({listed}, place) ORDER BY a.place) AS u
    {conflict}
    RETURNING room_nid, event_nid, position, sender
"""


_COLUMNS = column_names(EventColumns)
_ALL_COLUMNS = (*_COLUMNS, *column_names(GraphColumns))
#: The columns that an event without a place, stored for its content only, gets when it gets a place. Its redaction
#: stays.
_LATE_COLUMNS = [name for name in _ALL_COLUMNS if name not in ("room_nid", "event_nid", "event_id", "redacted_by")]
_EVENTS = _events(_COLUMNS, ":events.arrays")
_GRAPH_EVENTS = _events(
    _ALL_COLUMNS,
    ":events.arrays, :graph.arrays",
    "ON CONFLICT (room_nid, event_nid) DO UPDATE SET writer = excluded.writer, position = excluded.position, "
    + ", ".join(f"{name} = excluded.{name}" for name in _LATE_COLUMNS)
    + ", redacted_by = coalesce(events.redacted_by, excluded.redacted_by)"
    + f" WHERE events.status IN ({OUTLIER}, {REJECTED}) AND events.anchor IS NULL AND events.state_nid IS NULL",
)
_EXTREMITIES = """
    INSERT INTO forward_extremities (room_nid, event_nids)
    SELECT u.room_nid, u.event_nids::bigint[] FROM fence, :extremities AS u(:extremities.columns)
    ON CONFLICT (room_nid) DO UPDATE SET event_nids = excluded.event_nids
"""
_TRANSACTIONS = """
    INSERT INTO client_transactions (:transactions.columns)
    SELECT u.* FROM fence, :transactions AS u(:transactions.columns)
"""
_CHANGES = ":changes AS c(:changes.columns)"
_STATE_CHANGES = f"""
    INSERT INTO state_changes (room_nid, type, state_key, ordinal, event_nid, prev_nid, writer, position)
    SELECT ev.room_nid, c.type, c.state_key, c.ordinal, c.event_nid, c.prev_nid, :lease, ev.position
    FROM fence, ev JOIN {_CHANGES} ON c.at_nid = ev.event_nid
"""
#: A batch may change the same key twice: the last change is the state.
_LAST_CHANGES = f"""
    SELECT DISTINCT ON (ev.room_nid, c.type, c.state_key) ev.room_nid, c.type, c.state_key, c.event_nid, ev.position
    FROM fence, ev JOIN {_CHANGES} ON c.at_nid = ev.event_nid
    ORDER BY ev.room_nid, c.type, c.state_key, c.ordinal DESC
"""
_CURRENT_STATE = f"""
    INSERT INTO current_state (room_nid, type, state_key, event_nid, writer, position)
    SELECT l.room_nid, l.type, l.state_key, l.event_nid, :lease, l.position
    FROM fence, ({_LAST_CHANGES}) AS l WHERE l.event_nid IS NOT NULL
    ON CONFLICT (room_nid, type, state_key) DO UPDATE
    SET event_nid = excluded.event_nid, writer = excluded.writer, position = excluded.position
"""
_LEFT_STATE = f"""
    DELETE FROM current_state s USING fence, ({_LAST_CHANGES}) AS l
    WHERE l.event_nid IS NULL AND s.room_nid = l.room_nid AND s.type = l.type AND s.state_key = l.state_key
"""
#: MSC4140: another user set the state that a delayed event was to set. Uses delayed_events_by_state.
_SUPERSEDED = f"""
    UPDATE delayed_events d SET finalised_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM fence, ev JOIN {_CHANGES} ON c.at_nid = ev.event_nid AND c.event_nid = c.at_nid
    WHERE d.room_nid = ev.room_nid AND d.type = c.type AND d.state_key = c.state_key AND d.user_id <> ev.sender
      AND d.finalised_ms IS NULL AND d.sending_ms IS NULL
"""
#: A user who forgot a room does not get it back when they are kicked or banned afterwards.
_MEMBERSHIPS = f"""
    INSERT INTO memberships
      (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position, is_local, forgotten)
    SELECT DISTINCT ON (ev.room_nid, u.user_id)
           ev.room_nid, u.user_id, u.membership, u.event_nid, u.sender, c.ordinal, :lease, ev.position, u.is_local,
           false
    FROM fence, ev
    JOIN :memberships AS u(:memberships.columns) ON u.at_nid = ev.event_nid
    JOIN {_CHANGES} ON c.at_nid = u.at_nid AND c.type = 'm.room.member' AND c.state_key = u.user_id
    ORDER BY ev.room_nid, u.user_id, c.ordinal DESC
    ON CONFLICT (room_nid, user_id) DO UPDATE
    SET membership = excluded.membership, event_nid = excluded.event_nid, sender = excluded.sender,
        ordinal = excluded.ordinal, writer = excluded.writer, position = excluded.position,
        forgotten = memberships.forgotten AND excluded.membership IN ('leave', 'ban')
"""
#: Redacted events that were stored before. Those of the same batch have their redaction from the start.
_REDACTED = f"""
    UPDATE events e SET redacted_by = u.redacted_by
    FROM fence, {REDACTIONS}
    WHERE e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
"""
_ROOMS = "INSERT INTO rooms (:rooms.columns) SELECT u.* FROM fence, :rooms AS u(:rooms.columns)"
_ALIASES = "INSERT INTO room_aliases (:aliases.columns) SELECT u.* FROM fence, :aliases AS u(:aliases.columns)"
#: Events share a snapshot that one of them brought.
_SNAPSHOTS = """
    INSERT INTO state_snapshots (:snapshots.columns)
    SELECT u.room_nid, u.nid, u.parent, u.base, u.steps, u.added::bigint[], u.removed::bigint[]
    FROM fence, :snapshots AS u(:snapshots.columns)
"""
_GAPS = ":gaps AS u(:gaps.columns)"
_OPEN_GAPS = f"""
    INSERT INTO gaps (room_nid, anchor, missing)
    SELECT u.room_nid, u.anchor, u.missing::text[] FROM fence, {_GAPS} WHERE u.missing <> '{{}}'
    ON CONFLICT (room_nid, anchor) DO UPDATE SET missing = excluded.missing
"""
_CLOSED_GAPS = f"""
    DELETE FROM gaps g USING fence, {_GAPS}
    WHERE u.missing = '{{}}' AND g.room_nid = u.room_nid AND g.anchor = u.anchor
"""
_AWAITED = """
    INSERT INTO awaited_redactions (:awaited.columns) SELECT u.* FROM fence, :awaited AS u(:awaited.columns)
    ON CONFLICT DO NOTHING
"""
_ARRIVED = """
    DELETE FROM awaited_redactions a USING fence, :arrived AS u(:arrived.columns)
    WHERE a.room_nid = u.room_nid AND a.event_id = u.event_id
"""
#: MSC4354.
_STICKY = """
    INSERT INTO sticky_events (room_nid, event_nid, ordinal, writer, position, until_ms)
    SELECT ev.room_nid, ev.event_nid, u.ordinal, :lease, ev.position, least(u.sent_ms, now.ms) + u.sticky_ms
    FROM fence, (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now,
         ev JOIN :sticky AS u(:sticky.columns) ON u.event_nid = ev.event_nid
    WHERE least(u.sent_ms, now.ms) + u.sticky_ms > now.ms
"""

_RESULT = (
    "(SELECT array_agg(event_nid) FROM ev) AS event_nids, (SELECT array_agg(position) FROM ev) AS positions, "
    + MESSAGE_RESULT
)
_MESSAGE_PARTS = {"ev": _EVENTS, "extremities": _EXTREMITIES, "transactions": _TRANSACTIONS, **MESSAGE_PARTS}
_STATE_PARTS = {
    "changes": _STATE_CHANGES,
    "state": _CURRENT_STATE,
    "left_state": _LEFT_STATE,
    "superseded": _SUPERSEDED,
    "members": _MEMBERSHIPS,
    "redacted": _REDACTED,
    "new_rooms": _ROOMS,
    "aliases": _ALIASES,
    **STATE_PARTS,
}

COMMIT_MESSAGES = fenced_statement("commit_messages", CommitMessages, _MESSAGE_PARTS, _RESULT)
COMMIT_EVENTS = fenced_statement(
    "commit_events", CommitEvents, {**_MESSAGE_PARTS, **_STATE_PARTS}, f"{_RESULT}, {STATE_RESULT}"
)
COMMIT_GRAPH = fenced_statement(
    "commit_graph",
    CommitGraph,
    {
        **_MESSAGE_PARTS,
        "ev": _GRAPH_EVENTS,
        **_STATE_PARTS,
        "snapshots": _SNAPSHOTS,
        "gaps": _OPEN_GAPS,
        "closed": _CLOSED_GAPS,
        "awaited": _AWAITED,
        "arrived": _ARRIVED,
        "sticky": _STICKY,
    },
    f"{_RESULT}, {STATE_RESULT}",
)
