"""What events count, as parts of the statement that stores them (`events/statement.py`, which numbers the parameters).

Running totals are worked out inside the statement, from the last row of the group in that thread: whoever writes needs
no totals in memory, so a room that moves, or a batch that is taken apart, can't make them wrong. The rows' owner alone
writes them, one statement at a time, and a statement built on an old copy of the room is refused by its ordinals.
"""

from shared.storage.engine.parameters import unnest

#: $30 to $35, in the events' order. notifies, highlights: the sum of what the batch has counted there up to this row.
#: The last row is found in the primary key of push_counters; rows keep their order (the caller looks at it).
_COUNTED = f"""
    INSERT INTO push_counters (room_nid, group_id, thread_id, ordinal, notifies, highlights)
    SELECT u.room_nid, u.group_id, u.thread_id, u.ordinal,
           u.notifies + coalesce(l.notifies, 0), u.highlights + coalesce(l.highlights, 0)
    FROM fence, {unnest(30, "bigint", "bigint", "text", "bigint", "bigint", "bigint")}
      AS u(room_nid, group_id, thread_id, ordinal, notifies, highlights)
    LEFT JOIN LATERAL (
        SELECT c.notifies, c.highlights FROM push_counters c
        WHERE c.room_nid = u.room_nid AND c.group_id = u.group_id AND c.thread_id = u.thread_id
        ORDER BY c.ordinal DESC LIMIT 1
    ) AS l ON true
    RETURNING ordinal, notifies, highlights
"""
#: $36 to $39, one row per key.
_OWN = f"""
    INSERT INTO push_own (room_nid, user_id, thread_id, ordinal)
    SELECT u.room_nid, u.user_id, u.thread_id, u.ordinal
    FROM fence, {unnest(36, "bigint", "text", "text", "bigint")} AS u(room_nid, user_id, thread_id, ordinal)
    ON CONFLICT (room_nid, user_id, thread_id) DO UPDATE SET ordinal = excluded.ordinal
"""
#: $52 to $55: events that were stored before, redacted by an event of the batch; by_ordinal: its ordinal, NULL where it
#: has none: then no reader would hear of it, and what the event had counted stays.
REDACTIONS = unnest(52, "bigint", "bigint", "bigint", "bigint") + " AS u(room_nid, event_nid, redacted_by, by_ordinal)"
#: $66 to $71.
_EXCEPTIONS = f"""
    INSERT INTO push_exceptions (room_nid, user_id, ordinal, thread_id, notifies, highlights)
    SELECT u.* FROM fence, {unnest(66, "bigint", "text", "bigint", "text", "smallint", "smallint")}
      AS u(room_nid, user_id, ordinal, thread_id, notifies, highlights)
"""
#: $72 to $75.
_MEMBERS = f"""
    INSERT INTO push_members (room_nid, user_id, from_ordinal, group_id)
    SELECT u.* FROM fence, {unnest(72, "bigint", "text", "bigint", "bigint")}
      AS u(room_nid, user_id, from_ordinal, group_id)
"""
#: What the redacted events had counted: their totals less those before. Uses the primary keys of events and
#: push_counters. A second redaction takes nothing back.
_TAKEN_BACK = f"""
    SELECT e.room_nid, c.group_id, e.ordinal, c.thread_id, c.notifies - coalesce(l.notifies, 0) AS notifies,
           c.highlights - coalesce(l.highlights, 0) AS highlights, u.by_ordinal
    FROM fence, {REDACTIONS}
    JOIN events e ON e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
    JOIN push_counters c ON c.room_nid = e.room_nid AND c.group_id = ANY(e.push_groups)
     AND c.thread_id = coalesce(e.thread_id, '') AND c.ordinal = e.ordinal
    LEFT JOIN LATERAL (
        SELECT b.notifies, b.highlights FROM push_counters b
        WHERE b.room_nid = c.room_nid AND b.group_id = c.group_id AND b.thread_id = c.thread_id
          AND b.ordinal < c.ordinal
        ORDER BY b.ordinal DESC LIMIT 1
    ) AS l ON true
    WHERE u.by_ordinal IS NOT NULL
"""
#: $76 to $82: of events that were redacted in the batch that stored them.
_REDACTED = f"""
    INSERT INTO push_redacted (room_nid, group_id, ordinal, thread_id, notifies, highlights, by_ordinal)
    SELECT t.* FROM fence, (
        SELECT * FROM taken_back
        UNION ALL SELECT * FROM {unnest(76, "bigint", "bigint", "bigint", "text", "smallint", "smallint", "bigint")}
    ) AS t
"""
#: Uses the primary key of events, push_exceptions_by_ordinal.
_EXCEPTIONS_TAKEN_BACK = f"""
    DELETE FROM push_exceptions x USING fence, {REDACTIONS}
    JOIN events e ON e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
    WHERE u.by_ordinal IS NOT NULL AND x.room_nid = e.room_nid AND x.ordinal = e.ordinal
    RETURNING x.room_nid, x.ordinal, x.user_id, x.thread_id, x.notifies, x.highlights, u.by_ordinal
"""
#: $83 to $89: as above.
_REDACTED_USERS = f"""
    INSERT INTO push_redacted_users (room_nid, ordinal, user_id, thread_id, notifies, highlights, by_ordinal)
    SELECT t.* FROM fence, (
        SELECT * FROM users_taken_back
        UNION ALL SELECT * FROM {unnest(83, "bigint", "bigint", "text", "text", "smallint", "smallint", "bigint")}
    ) AS t
"""

MESSAGE_PARTS = {"counted": _COUNTED, "own": _OWN}
MESSAGE_RESULT = (
    "(SELECT array_agg(ordinal) FROM counted) AS counted_ordinals,"
    " (SELECT array_agg(notifies) FROM counted) AS notifies, (SELECT array_agg(highlights) FROM counted) AS highlights"
)
STATE_PARTS = {
    "exceptions": _EXCEPTIONS,
    "push_members": _MEMBERS,
    "taken_back": _TAKEN_BACK,
    "push_redacted": _REDACTED,
    "users_taken_back": _EXCEPTIONS_TAKEN_BACK,
    "push_redacted_users": _REDACTED_USERS,
}
STATE_RESULT = (
    "(SELECT array_agg(t) FROM taken_back t) AS taken_back,"
    " (SELECT array_agg(t) FROM users_taken_back t) AS users_taken_back"
)
