"""The one fenced statement that stores a batch of events with all that belongs to them.

The statement comes in three forms made of the same parts, since parts with nothing to do still cost their start:
messages alone; what also changes the state; and what came from other servers, with a place of its own in the graph.

Every part takes its rows from the fence; parts about state take position and room from `ev`, the events just
inserted, so that they can never differ from their event's.
"""

from collections.abc import Sequence

from shared.storage.fenced import fenced_statement

ACCEPTED, SOFT_FAILED, REJECTED, OUTLIER = 0, 1, 2, 3  # events.status


def _unnest(first: int, *types: str) -> str:
    """unnest of one array parameter per column, from $first on."""
    return _unnest_of([(first + n, kind) for n, kind in enumerate(types)])


def _unnest_of(parameters: Sequence[tuple[int, str]]) -> str:
    return "unnest(" + ", ".join(f"${number}::{kind}[]" for number, kind in parameters) + ")"


#: $2 to $20, one array per column, in the batch's order; array columns travel as text, since they differ in length.
_COLUMNS = (
    ("room_nid", "bigint"), ("event_nid", "bigint"), ("event_id", "text"), ("ordinal", "bigint"),
    ("depth", "bigint"), ("type", "text"), ("state_key", "text"), ("sender", "text"),
    ("origin_server_ts", "bigint"), ("prev_nids", "text"), ("auth_nids", "text"), ("replaces_nid", "bigint"),
    ("redacted_by", "bigint"), ("redacts_nid", "bigint"), ("txn_device", "text"), ("txn_id", "text"),
    ("json", "bytea"), ("relates_to", "text"), ("rel_type", "text"),
)  # fmt: skip
#: $52 to $57, in the graph's form only.
_GRAPH_COLUMNS = (
    ("status", "smallint"), ("anchor", "bigint"), ("back", "integer"), ("state_nid", "bigint"),
    ("resolved", "boolean"), ("gap", "boolean"),
)  # fmt: skip
_ARRAYS = ("prev_nids", "auth_nids")


def _events(parameters: Sequence[tuple[int, tuple[str, str]]], conflict: str = "") -> str:
    """Positions are drawn above the sort, so they ascend in the batch's order (a test looks at them)."""
    names = ", ".join(name for _, (name, _) in parameters)
    values = ", ".join(f"u.{name}::bigint[]" if name in _ARRAYS else f"u.{name}" for _, (name, _) in parameters)
    arrays = _unnest_of([(number, kind) for number, (_, kind) in parameters])
    return f"""
    INSERT INTO events (writer, position, {names})
    SELECT $1, nextval('stream_events'), {values}
    FROM (SELECT a.* FROM fence, {arrays} WITH ORDINALITY AS a({names}, place) ORDER BY a.place) AS u
    {conflict}
    RETURNING room_nid, event_nid, position
"""


_NUMBERED = list(enumerate(_COLUMNS, 2))
_EVENTS = _events(_NUMBERED)
#: An event without a place, for its content only, takes on what is known of it when it gets one; its redaction stays.
_GRAPH_EVENTS = _events(
    [*_NUMBERED, *enumerate(_GRAPH_COLUMNS, 52)],
    "ON CONFLICT (room_nid, event_nid) DO UPDATE SET writer = excluded.writer, position = excluded.position, "
    + ", ".join(f"{name} = excluded.{name}" for name, _ in (*_COLUMNS[3:], *_GRAPH_COLUMNS) if name != "redacted_by")
    + ", redacted_by = coalesce(events.redacted_by, excluded.redacted_by)"
    + f" WHERE events.status IN ({OUTLIER}, {REJECTED}) AND events.anchor IS NULL AND events.state_nid IS NULL",
)
#: $21, $22: rooms and their extremities after the batch.
_EXTREMITIES = f"""
    INSERT INTO forward_extremities (room_nid, event_nids)
    SELECT u.room_nid, u.event_nids::bigint[] FROM fence, {_unnest(21, "bigint", "text")} AS u(room_nid, event_nids)
    ON CONFLICT (room_nid) DO UPDATE SET event_nids = excluded.event_nids
"""
#: $23 to $26.
_TRANSACTIONS = f"""
    INSERT INTO client_transactions (room_nid, key, event_id, created_ms)
    SELECT u.room_nid, u.key, u.event_id, u.created_ms
    FROM fence, {_unnest(23, "bigint", "bytea", "text", "bigint")} AS u(room_nid, key, event_id, created_ms)
"""
#: $27 to $32. at_nid: the event of the batch at which the change took effect.
_CHANGES = (
    _unnest(27, "bigint", "bigint", "text", "text", "bigint", "bigint")
    + " AS c(at_nid, ordinal, type, state_key, event_nid, prev_nid)"
)
_STATE_CHANGES = f"""
    INSERT INTO state_changes (room_nid, type, state_key, ordinal, event_nid, prev_nid, writer, position)
    SELECT ev.room_nid, c.type, c.state_key, c.ordinal, c.event_nid, c.prev_nid, $1, ev.position
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
    SELECT l.room_nid, l.type, l.state_key, l.event_nid, $1, l.position
    FROM fence, ({_LAST_CHANGES}) AS l WHERE l.event_nid IS NOT NULL
    ON CONFLICT (room_nid, type, state_key) DO UPDATE
    SET event_nid = excluded.event_nid, writer = excluded.writer, position = excluded.position
"""
_LEFT_STATE = f"""
    DELETE FROM current_state s USING fence, ({_LAST_CHANGES}) AS l
    WHERE l.event_nid IS NULL AND s.room_nid = l.room_nid AND s.type = l.type AND s.state_key = l.state_key
"""
#: $33 to $38. Whoever forgot a room does not get it back by being kicked or banned afterwards.
_MEMBERSHIPS = f"""
    INSERT INTO memberships
      (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position, is_local, forgotten)
    SELECT DISTINCT ON (ev.room_nid, u.user_id)
           ev.room_nid, u.user_id, u.membership, u.event_nid, u.sender, c.ordinal, $1, ev.position, u.is_local, false
    FROM fence, ev
    JOIN {_unnest(33, "bigint", "text", "text", "bigint", "text", "bool")}
      AS u(at_nid, user_id, membership, event_nid, sender, is_local) ON u.at_nid = ev.event_nid
    JOIN {_CHANGES} ON c.at_nid = u.at_nid AND c.type = 'm.room.member' AND c.state_key = u.user_id
    ORDER BY ev.room_nid, u.user_id, c.ordinal DESC
    ON CONFLICT (room_nid, user_id) DO UPDATE
    SET membership = excluded.membership, event_nid = excluded.event_nid, sender = excluded.sender,
        ordinal = excluded.ordinal, writer = excluded.writer, position = excluded.position,
        forgotten = memberships.forgotten AND excluded.membership IN ('leave', 'ban')
"""
#: $39 to $41: redacted events that were stored before (those of the same batch carry it from the start).
_REDACTED = f"""
    UPDATE events e SET redacted_by = u.redacted_by
    FROM fence, {_unnest(39, "bigint", "bigint", "bigint")} AS u(room_nid, event_nid, redacted_by)
    WHERE e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
"""
#: $42 to $47.
_ROOMS = f"""
    INSERT INTO rooms (room_nid, room_id, room_version, creator, is_public, created_ms)
    SELECT u.* FROM fence, {_unnest(42, "bigint", "text", "text", "text", "bool", "bigint")}
      AS u(room_nid, room_id, room_version, creator, is_public, created_ms)
"""
#: $48 to $51.
_ALIASES = f"""
    INSERT INTO room_aliases (alias, room_nid, creator, created_ms)
    SELECT u.* FROM fence, {_unnest(48, "text", "bigint", "text", "bigint")} AS u(alias, room_nid, creator, created_ms)
"""
#: $58 to $64; events share a snapshot that one of them brought.
_SNAPSHOTS = f"""
    INSERT INTO state_snapshots (room_nid, nid, parent, base, steps, added, removed)
    SELECT u.room_nid, u.nid, u.parent, u.base, u.steps, u.added::bigint[], u.removed::bigint[]
    FROM fence, {_unnest(58, "bigint", "bigint", "bigint", "bigint", "integer", "text", "text")}
      AS u(room_nid, nid, parent, base, steps, added, removed)
"""
#: $65 to $67: what is missing now at an anchor; nothing: the gap is closed.
_GAPS = _unnest(65, "bigint", "bigint", "text") + " AS u(room_nid, anchor, missing)"
_OPEN_GAPS = f"""
    INSERT INTO gaps (room_nid, anchor, missing)
    SELECT u.room_nid, u.anchor, u.missing::text[] FROM fence, {_GAPS} WHERE u.missing <> '{{}}'
    ON CONFLICT (room_nid, anchor) DO UPDATE SET missing = excluded.missing
"""
_CLOSED_GAPS = f"""
    DELETE FROM gaps g USING fence, {_GAPS}
    WHERE u.missing = '{{}}' AND g.room_nid = u.room_nid AND g.anchor = u.anchor
"""
#: $68 to $70: redactions of events that are not here yet.
_AWAITED = f"""
    INSERT INTO awaited_redactions (room_nid, event_id, redaction_nid)
    SELECT u.* FROM fence, {_unnest(68, "bigint", "text", "bigint")} AS u(room_nid, event_id, redaction_nid)
    ON CONFLICT DO NOTHING
"""
#: $71, $72: events that are here from now on.
_ARRIVED = f"""
    DELETE FROM awaited_redactions a USING fence, {_unnest(71, "bigint", "text")} AS u(room_nid, event_id)
    WHERE a.room_nid = u.room_nid AND a.event_id = u.event_id
"""

_RESULT = "(SELECT array_agg(event_nid) FROM ev) AS event_nids, (SELECT array_agg(position) FROM ev) AS positions"
_MESSAGE_PARTS = {"ev": _EVENTS, "extremities": _EXTREMITIES, "transactions": _TRANSACTIONS}
_STATE_PARTS = {
    "changes": _STATE_CHANGES,
    "state": _CURRENT_STATE,
    "left_state": _LEFT_STATE,
    "members": _MEMBERSHIPS,
    "redacted": _REDACTED,
    "new_rooms": _ROOMS,
    "aliases": _ALIASES,
}

COMMIT_MESSAGES = fenced_statement("commit_messages", _MESSAGE_PARTS, _RESULT)
COMMIT_EVENTS = fenced_statement("commit_events", {**_MESSAGE_PARTS, **_STATE_PARTS}, _RESULT)
COMMIT_GRAPH = fenced_statement(
    "commit_graph",
    {
        **_MESSAGE_PARTS,
        "ev": _GRAPH_EVENTS,
        **_STATE_PARTS,
        "snapshots": _SNAPSHOTS,
        "gaps": _OPEN_GAPS,
        "closed": _CLOSED_GAPS,
        "awaited": _AWAITED,
        "arrived": _ARRIVED,
    },
    _RESULT,
)
