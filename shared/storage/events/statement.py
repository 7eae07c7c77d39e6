"""The one fenced statement that stores a batch of events with all that belongs to them.

The statement comes in three forms made of the same parts, since parts with nothing to do still cost their start:
messages alone; what also changes the state; and what came from other servers, with a place of its own in the graph.

Every part takes its rows from the fence; parts about state take position and room from `ev`, the events just
inserted, so that they can never differ from their event's.
"""

from collections.abc import Sequence

from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.parameters import unnest, unnest_of
from shared.storage.push.statement import MESSAGE_PARTS, MESSAGE_RESULT, REDACTIONS, STATE_PARTS, STATE_RESULT

ACCEPTED, SOFT_FAILED, REJECTED, OUTLIER = 0, 1, 2, 3  # events.status


#: $2 to $23, one array per column, in the batch's order; array columns travel as text, since they differ in length.
_COLUMNS = (
    ("room_nid", "bigint"), ("event_nid", "bigint"), ("event_id", "text"), ("ordinal", "bigint"),
    ("depth", "bigint"), ("type", "text"), ("state_key", "text"), ("sender", "text"),
    ("origin_server_ts", "bigint"), ("prev_nids", "text"), ("auth_nids", "text"), ("replaces_nid", "bigint"),
    ("redacted_by", "bigint"), ("redacts_nid", "bigint"), ("txn_device", "text"), ("txn_id", "text"),
    ("json", "bytea"), ("relates_to", "text"), ("rel_type", "text"), ("thread_id", "text"), ("push_groups", "text"),
    ("has_push_rows", "boolean"),
)  # fmt: skip
#: $90 to $95, in the graph's form only.
_GRAPH_COLUMNS = (
    ("status", "smallint"), ("anchor", "bigint"), ("back", "integer"), ("state_nid", "bigint"),
    ("resolved", "boolean"), ("gap", "boolean"),
)  # fmt: skip
_ARRAYS = ("prev_nids", "auth_nids", "push_groups")


def _events(parameters: Sequence[tuple[int, tuple[str, str]]], conflict: str = "") -> str:
    """Positions are drawn above the sort, so they ascend in the batch's order (a test looks at them)."""
    names = ", ".join(name for _, (name, _) in parameters)
    values = ", ".join(f"u.{name}::bigint[]" if name in _ARRAYS else f"u.{name}" for _, (name, _) in parameters)
    arrays = unnest_of([(number, kind) for number, (_, kind) in parameters])
    return f"""
    INSERT INTO events (writer, position, {names})
    SELECT $1, nextval('stream_events'), {values}
    FROM (SELECT a.* FROM fence, {arrays} WITH ORDINALITY AS a({names}, place) ORDER BY a.place) AS u
    {conflict}
    RETURNING room_nid, event_nid, position, sender
"""


_NUMBERED = list(enumerate(_COLUMNS, 2))
_EVENTS = _events(_NUMBERED)
#: An event without a place, for its content only, takes on what is known of it when it gets one; its redaction stays.
_GRAPH_EVENTS = _events(
    [*_NUMBERED, *enumerate(_GRAPH_COLUMNS, 90)],
    "ON CONFLICT (room_nid, event_nid) DO UPDATE SET writer = excluded.writer, position = excluded.position, "
    + ", ".join(f"{name} = excluded.{name}" for name, _ in (*_COLUMNS[3:], *_GRAPH_COLUMNS) if name != "redacted_by")
    + ", redacted_by = coalesce(events.redacted_by, excluded.redacted_by)"
    + f" WHERE events.status IN ({OUTLIER}, {REJECTED}) AND events.anchor IS NULL AND events.state_nid IS NULL",
)
#: $24, $25: rooms and their extremities after the batch.
_EXTREMITIES = f"""
    INSERT INTO forward_extremities (room_nid, event_nids)
    SELECT u.room_nid, u.event_nids::bigint[] FROM fence, {unnest(24, "bigint", "text")} AS u(room_nid, event_nids)
    ON CONFLICT (room_nid) DO UPDATE SET event_nids = excluded.event_nids
"""
#: $26 to $29.
_TRANSACTIONS = f"""
    INSERT INTO client_transactions (room_nid, key, event_id, created_ms)
    SELECT u.room_nid, u.key, u.event_id, u.created_ms
    FROM fence, {unnest(26, "bigint", "bytea", "text", "bigint")} AS u(room_nid, key, event_id, created_ms)
"""
#: $40 to $45. at_nid: the event of the batch at which the change took effect.
_CHANGES = (
    unnest(40, "bigint", "bigint", "text", "text", "bigint", "bigint")
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
#: MSC4140: somebody else set the state that a delayed event was to set. Uses delayed_events_by_state.
_SUPERSEDED = f"""
    UPDATE delayed_events d SET finalised_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint
    FROM fence, ev JOIN {_CHANGES} ON c.at_nid = ev.event_nid AND c.event_nid = c.at_nid
    WHERE d.room_nid = ev.room_nid AND d.type = c.type AND d.state_key = c.state_key AND d.user_id <> ev.sender
      AND d.finalised_ms IS NULL AND d.sending_ms IS NULL
"""
#: $46 to $51. Whoever forgot a room does not get it back by being kicked or banned afterwards.
_MEMBERSHIPS = f"""
    INSERT INTO memberships
      (room_nid, user_id, membership, event_nid, sender, ordinal, writer, position, is_local, forgotten)
    SELECT DISTINCT ON (ev.room_nid, u.user_id)
           ev.room_nid, u.user_id, u.membership, u.event_nid, u.sender, c.ordinal, $1, ev.position, u.is_local, false
    FROM fence, ev
    JOIN {unnest(46, "bigint", "text", "text", "bigint", "text", "bool")}
      AS u(at_nid, user_id, membership, event_nid, sender, is_local) ON u.at_nid = ev.event_nid
    JOIN {_CHANGES} ON c.at_nid = u.at_nid AND c.type = 'm.room.member' AND c.state_key = u.user_id
    ORDER BY ev.room_nid, u.user_id, c.ordinal DESC
    ON CONFLICT (room_nid, user_id) DO UPDATE
    SET membership = excluded.membership, event_nid = excluded.event_nid, sender = excluded.sender,
        ordinal = excluded.ordinal, writer = excluded.writer, position = excluded.position,
        forgotten = memberships.forgotten AND excluded.membership IN ('leave', 'ban')
"""
#: $52 to $55: redacted events that were stored before (those of the same batch carry it from the start).
_REDACTED = f"""
    UPDATE events e SET redacted_by = u.redacted_by
    FROM fence, {REDACTIONS}
    WHERE e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
"""
#: $56 to $61.
_ROOMS = f"""
    INSERT INTO rooms (room_nid, room_id, room_version, creator, is_public, created_ms)
    SELECT u.* FROM fence, {unnest(56, "bigint", "text", "text", "text", "bool", "bigint")}
      AS u(room_nid, room_id, room_version, creator, is_public, created_ms)
"""
#: $62 to $65.
_ALIASES = f"""
    INSERT INTO room_aliases (alias, room_nid, creator, created_ms)
    SELECT u.* FROM fence, {unnest(62, "text", "bigint", "text", "bigint")} AS u(alias, room_nid, creator, created_ms)
"""
#: $96 to $102; events share a snapshot that one of them brought.
_SNAPSHOTS = f"""
    INSERT INTO state_snapshots (room_nid, nid, parent, base, steps, added, removed)
    SELECT u.room_nid, u.nid, u.parent, u.base, u.steps, u.added::bigint[], u.removed::bigint[]
    FROM fence, {unnest(96, "bigint", "bigint", "bigint", "bigint", "integer", "text", "text")}
      AS u(room_nid, nid, parent, base, steps, added, removed)
"""
#: $103 to $105: what is missing now at an anchor; nothing: the gap is closed.
_GAPS = unnest(103, "bigint", "bigint", "text") + " AS u(room_nid, anchor, missing)"
_OPEN_GAPS = f"""
    INSERT INTO gaps (room_nid, anchor, missing)
    SELECT u.room_nid, u.anchor, u.missing::text[] FROM fence, {_GAPS} WHERE u.missing <> '{{}}'
    ON CONFLICT (room_nid, anchor) DO UPDATE SET missing = excluded.missing
"""
_CLOSED_GAPS = f"""
    DELETE FROM gaps g USING fence, {_GAPS}
    WHERE u.missing = '{{}}' AND g.room_nid = u.room_nid AND g.anchor = u.anchor
"""
#: $106 to $108: redactions of events that are not here yet.
_AWAITED = f"""
    INSERT INTO awaited_redactions (room_nid, event_id, redaction_nid)
    SELECT u.* FROM fence, {unnest(106, "bigint", "text", "bigint")} AS u(room_nid, event_id, redaction_nid)
    ON CONFLICT DO NOTHING
"""
#: $109, $110: events that are here from now on.
_ARRIVED = f"""
    DELETE FROM awaited_redactions a USING fence, {unnest(109, "bigint", "text")} AS u(room_nid, event_id)
    WHERE a.room_nid = u.room_nid AND a.event_id = u.event_id
"""

#: $111 to $114: MSC4354. It begins when it came, should its sender's clock be ahead.
_STICKY = f"""
    INSERT INTO sticky_events (room_nid, event_nid, ordinal, writer, position, until_ms)
    SELECT ev.room_nid, ev.event_nid, u.ordinal, $1, ev.position, least(u.sent_ms, now.ms) + u.sticky_ms
    FROM fence, (SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint AS ms) AS now,
         ev JOIN {unnest(111, "bigint", "bigint", "bigint", "bigint")} AS u(event_nid, ordinal, sent_ms, sticky_ms)
           ON u.event_nid = ev.event_nid
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

COMMIT_MESSAGES = fenced_statement("commit_messages", _MESSAGE_PARTS, _RESULT)
COMMIT_EVENTS = fenced_statement("commit_events", {**_MESSAGE_PARTS, **_STATE_PARTS}, f"{_RESULT}, {STATE_RESULT}")
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
        "sticky": _STICKY,
    },
    f"{_RESULT}, {STATE_RESULT}",
)
