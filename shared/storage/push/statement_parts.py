"""The counts of events, as parts of the statement that stores them (`events/commit_statement.py`).

Running totals are worked out inside the statement, from the last row of the group in that thread. The writer keeps no
totals in memory, so a room that moves, or a batch that is taken apart, cannot make them wrong. Only the room's owner
writes these rows, one statement at a time, and a statement built on an old copy of the room is refused by its ordinals.

The statement has these parameters: `push` (PushTotals), `redactions` (rows of RedactedEvent) and, unless it stores
messages only, `push_rows` (PushRows).
"""

from collections.abc import Sequence
from typing import NamedTuple

from shared.core.identifiers import UserId
from shared.storage.engine.statements import SmallInt, parameters


class GroupTotal(NamedTuple):
    """The count of an event for a group. notifies, highlights: the batch's sum for group and thread up to this row."""

    room_nid: int
    group_id: int
    thread_id: str
    ordinal: int | None
    notifies: int
    highlights: int


class OwnEvent(NamedTuple):
    """A user's newest event in a thread."""

    room_nid: int
    user_id: UserId
    thread_id: str
    ordinal: int


@parameters
class PushTotals:
    """counted: in the events' order. own: one row per room, user and thread."""

    counted: Sequence[GroupTotal]
    own: Sequence[OwnEvent]


class RedactedEvent(NamedTuple):
    """An event that was stored before, and the event of the batch that redacts it.

    by_ordinal: the ordinal of the redaction. None: it has none, so no reader would hear of it, and what the event had
    counted stays.
    """

    room_nid: int
    event_nid: int
    redacted_by: int
    by_ordinal: int | None


class PushException(NamedTuple):
    room_nid: int
    user_id: UserId
    ordinal: int | None
    thread_id: str
    notifies: SmallInt
    highlights: SmallInt


class GroupChange(NamedTuple):
    room_nid: int
    user_id: UserId
    from_ordinal: int | None
    group_id: int


class RedactedTotal(NamedTuple):
    """The count of an event for a group, if the batch that stores it redacts it too."""

    room_nid: int
    group_id: int
    ordinal: int | None
    thread_id: str
    notifies: SmallInt
    highlights: SmallInt
    by_ordinal: int


class RedactedException(NamedTuple):
    """The same for one user."""

    room_nid: int
    ordinal: int | None
    user_id: UserId
    thread_id: str
    notifies: SmallInt
    highlights: SmallInt
    by_ordinal: int


@parameters
class PushRows:
    exceptions: Sequence[PushException]
    group_changes: Sequence[GroupChange]
    redacted_totals: Sequence[RedactedTotal]
    redacted_exceptions: Sequence[RedactedException]


#: The last row is found in the primary key of push_counters; rows keep their order (the caller checks it).
_COUNTED = """
    INSERT INTO push_counters (room_nid, group_id, thread_id, ordinal, notifies, highlights)
    SELECT u.room_nid, u.group_id, u.thread_id, u.ordinal,
           u.notifies + coalesce(l.notifies, 0), u.highlights + coalesce(l.highlights, 0)
    FROM fence, :push.counted AS u(:push.counted.columns)
    LEFT JOIN LATERAL (
        SELECT c.notifies, c.highlights FROM push_counters c
        WHERE c.room_nid = u.room_nid AND c.group_id = u.group_id AND c.thread_id = u.thread_id
        ORDER BY c.ordinal DESC LIMIT 1
    ) AS l ON true
    RETURNING ordinal, notifies, highlights
"""
_OWN = """
    INSERT INTO push_own (:push.own.columns)
    SELECT u.* FROM fence, :push.own AS u(:push.own.columns)
    ON CONFLICT (room_nid, user_id, thread_id) DO UPDATE SET ordinal = excluded.ordinal
"""
REDACTIONS = ":redactions AS u(:redactions.columns)"
_EXCEPTIONS = """
    INSERT INTO push_exceptions (:push_rows.exceptions.columns)
    SELECT u.* FROM fence, :push_rows.exceptions AS u(:push_rows.exceptions.columns)
"""
_GROUP_CHANGES = """
    INSERT INTO push_members (:push_rows.group_changes.columns)
    SELECT u.* FROM fence, :push_rows.group_changes AS u(:push_rows.group_changes.columns)
"""
#: The counts of the redacted events: their totals less those before. Uses the primary keys of events and
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
_REDACTED = """
    INSERT INTO push_redacted (:push_rows.redacted_totals.columns)
    SELECT t.* FROM fence, (
        SELECT * FROM taken_back UNION ALL SELECT * FROM :push_rows.redacted_totals
    ) AS t
"""
#: Uses the primary key of events, push_exceptions_by_ordinal.
_EXCEPTIONS_TAKEN_BACK = f"""
    DELETE FROM push_exceptions x USING fence, {REDACTIONS}
    JOIN events e ON e.room_nid = u.room_nid AND e.event_nid = u.event_nid AND e.redacted_by IS NULL
    WHERE u.by_ordinal IS NOT NULL AND x.room_nid = e.room_nid AND x.ordinal = e.ordinal
    RETURNING x.room_nid, x.ordinal, x.user_id, x.thread_id, x.notifies, x.highlights, u.by_ordinal
"""
_REDACTED_USERS = """
    INSERT INTO push_redacted_users (:push_rows.redacted_exceptions.columns)
    SELECT t.* FROM fence, (
        SELECT * FROM users_taken_back UNION ALL SELECT * FROM :push_rows.redacted_exceptions
    ) AS t
"""

MESSAGE_PARTS = {"counted": _COUNTED, "own": _OWN}
MESSAGE_RESULT = (
    "(SELECT array_agg(ordinal) FROM counted) AS counted_ordinals,"
    " (SELECT array_agg(notifies) FROM counted) AS notifies, (SELECT array_agg(highlights) FROM counted) AS highlights"
)
STATE_PARTS = {
    "exceptions": _EXCEPTIONS,
    "push_members": _GROUP_CHANGES,
    "taken_back": _TAKEN_BACK,
    "push_redacted": _REDACTED,
    "users_taken_back": _EXCEPTIONS_TAKEN_BACK,
    "push_redacted_users": _REDACTED_USERS,
}
STATE_RESULT = (
    "(SELECT array_agg(t) FROM taken_back t) AS taken_back,"
    " (SELECT array_agg(t) FROM users_taken_back t) AS users_taken_back"
)
