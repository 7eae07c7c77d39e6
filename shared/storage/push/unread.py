"""Unread counts of a user: the running totals at both ends of a span, and what differs from them for the user.

The cost depends on the number of the user's marks and groups in the room, of its threads, and of the exceptions after
what they have read. It does not depend on the number of unread events.
"""

from collections.abc import Sequence
from typing import Final

from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import Count, UnreadSnapshot
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import columns, parameters, statement
from shared.storage.engine.vectors import VectorParameter, vector_parameter

_IS_JOIN: Final = """position('"membership":"join"'::bytea IN {json}) > 0"""


@columns
class _Rooms:
    """Rooms and their ends. ordinal: None: as far as the vector reaches."""

    room_nid: list[int]
    ordinal: list[int | None]


@parameters
class _ReadUnread:
    user_id: UserId
    rooms: _Rooms
    vector: VectorParameter


#: Returns one row per room. Its parts, and the indices that they use:
#:   ends      events_room_nid_ordinal_key, backwards
#:   floors    the primary keys of state_changes, events and receipts; a join is a change to "join" from anything else
#:   marks     the primary keys of receipts and push_own
#:   spans     of the user's groups; push_members
#:   threads   push_counters, one step per thread
#:   parts     push_counters for the totals; push_redacted; push_exceptions, and push_redacted_users by redaction for
#:             what was taken away later
#: The arrays are hidden from the planner. Otherwise it would make a plan for their length each time, which costs
#: several times as much as running it for one room.
_UNREAD = statement(
    _ReadUnread,
    f"""
    WITH ends AS MATERIALIZED (
        SELECT w.room_nid, coalesce(w.ordinal, (
            SELECT e.ordinal FROM events e
            LEFT JOIN unnest((SELECT :vector.above.writer), (SELECT :vector.above.position))
                AS v(:vector.above.columns) USING (writer)
            WHERE e.room_nid = w.room_nid AND e.ordinal IS NOT NULL AND e.writer <= :vector.known
              AND e.position <= coalesce(v.position, :vector.base)
            ORDER BY e.ordinal DESC LIMIT 1
        ), 0) AS till
        FROM unnest((SELECT :rooms.room_nid), (SELECT :rooms.ordinal)) AS w(:rooms.columns)
    ), floors AS MATERIALIZED (
        SELECT ends.*, greatest(0, (
            SELECT c.ordinal FROM state_changes c
            JOIN events e ON e.room_nid = c.room_nid AND e.event_nid = c.event_nid
            LEFT JOIN events p ON p.room_nid = c.room_nid AND p.event_nid = c.prev_nid
            WHERE c.room_nid = ends.room_nid AND c.type = 'm.room.member' AND c.state_key = :user_id
              AND c.ordinal <= till
              AND {_IS_JOIN.format(json="e.json")} AND NOT coalesce({_IS_JOIN.format(json="p.json")}, false)
            ORDER BY c.ordinal DESC LIMIT 1
        ), (
            SELECT max(r.ordinal) FROM receipts r
            WHERE r.room_nid = ends.room_nid AND r.user_id = :user_id AND r.kind IN ('m.read', 'm.read.private')
              AND r.thread_id = ''
        )) AS floor
        FROM ends
    ), marks AS MATERIALIZED (
        SELECT room_nid, thread_id, max(ordinal) AS ordinal FROM (
            SELECT f.room_nid, CASE r.thread_id WHEN 'main' THEN '' ELSE r.thread_id END AS thread_id, r.ordinal
            FROM floors f JOIN receipts r USING (room_nid)
            WHERE r.user_id = :user_id AND r.kind IN ('m.read', 'm.read.private') AND r.thread_id <> ''
              AND r.ordinal > f.floor
            UNION ALL
            SELECT f.room_nid, o.thread_id, o.ordinal FROM floors f JOIN push_own o USING (room_nid)
            WHERE o.user_id = :user_id AND o.ordinal > f.floor
        ) AS m GROUP BY room_nid, thread_id
    ), spans AS MATERIALIZED (
        SELECT f.room_nid, g.group_id, g.first, greatest(g.first - 1, f.floor) AS above,
               least(g.next - 1, f.till) AS till, f.till AS last, g.next IS NULL AS present
        FROM floors f CROSS JOIN LATERAL (
            SELECT group_id, first, lead(first) OVER (ORDER BY first) AS next FROM (
                SELECT 0::bigint AS group_id, 0::bigint AS first
                UNION ALL
                SELECT group_id, from_ordinal FROM push_members
                WHERE room_nid = f.room_nid AND user_id = :user_id AND from_ordinal <= f.till
            ) AS one
        ) AS g
    ), parts AS (
        SELECT s.room_nid, t.thread_id, s.present, now.highlights AS total,
               now.notifies - coalesce(was.notifies, 0) - coalesce(back.notifies, 0) AS notifies,
               now.highlights - coalesce(was.highlights, 0) - coalesce(back.highlights, 0) AS highlights
        FROM spans s
        CROSS JOIN LATERAL (
            WITH RECURSIVE threads(thread_id) AS (
                SELECT '' WHERE s.above < s.till OR s.present
                UNION ALL
                SELECT (SELECT c.thread_id FROM push_counters c
                        WHERE c.room_nid = s.room_nid AND c.group_id = s.group_id AND c.thread_id > threads.thread_id
                        ORDER BY c.thread_id LIMIT 1)
                FROM threads WHERE threads.thread_id IS NOT NULL AND s.above < s.till
            )
            SELECT thread_id FROM threads WHERE thread_id IS NOT NULL
        ) AS t
        LEFT JOIN marks m ON m.room_nid = s.room_nid AND m.thread_id = t.thread_id
        CROSS JOIN LATERAL (
            SELECT c.notifies, c.highlights, c.ordinal FROM push_counters c
            WHERE c.room_nid = s.room_nid AND c.group_id = s.group_id AND c.thread_id = t.thread_id
              AND c.ordinal <= s.till
            ORDER BY c.ordinal DESC LIMIT 1
        ) AS now
        LEFT JOIN LATERAL (
            SELECT c.notifies, c.highlights FROM push_counters c
            WHERE c.room_nid = s.room_nid AND c.group_id = s.group_id AND c.thread_id = t.thread_id
              AND c.ordinal <= least(greatest(s.above, m.ordinal), s.till)
            ORDER BY c.ordinal DESC LIMIT 1
        ) AS was ON true
        LEFT JOIN LATERAL (
            SELECT sum(x.notifies) AS notifies, sum(x.highlights) AS highlights FROM push_redacted x
            WHERE x.room_nid = s.room_nid AND x.group_id = s.group_id AND x.thread_id = t.thread_id
              AND x.ordinal > greatest(s.above, m.ordinal) AND x.ordinal <= s.till
              AND x.by_ordinal <= s.last
        ) AS back ON now.ordinal > greatest(s.above, m.ordinal)
        WHERE now.ordinal > greatest(s.above, m.ordinal) OR (s.present AND t.thread_id = '')
        UNION ALL
        SELECT f.room_nid, x.thread_id, false, 0, x.notifies, x.highlights
        FROM floors f
        CROSS JOIN LATERAL (
            SELECT thread_id, ordinal, notifies, highlights FROM push_exceptions
            WHERE room_nid = f.room_nid AND user_id = :user_id AND ordinal > f.floor AND ordinal <= f.till
            UNION ALL
            SELECT thread_id, ordinal, notifies, highlights FROM push_redacted_users
            WHERE room_nid = f.room_nid AND by_ordinal > f.till AND user_id = :user_id
              AND ordinal > f.floor AND ordinal <= f.till
        ) AS x
        LEFT JOIN marks m ON m.room_nid = f.room_nid AND m.thread_id = x.thread_id
        WHERE x.ordinal > coalesce(m.ordinal, 0)
    )
    SELECT f.room_nid, f.till, f.floor,
           ARRAY(SELECT ROW(m.thread_id, m.ordinal) FROM marks m WHERE m.room_nid = f.room_nid) AS marks,
           s.group_id, s.first,
           ARRAY(
               SELECT ROW(p.thread_id, sum(p.notifies)::bigint, sum(p.highlights)::bigint,
                          sum(p.total) FILTER (WHERE p.present)::bigint)
               FROM parts p WHERE p.room_nid = f.room_nid GROUP BY p.thread_id
           ) AS counts
    FROM floors f JOIN spans s ON s.room_nid = f.room_nid AND s.present
    """,
)
#: Uses the primary key of push_counters.
_HIGHLIGHTS = """
    SELECT highlights FROM push_counters
    WHERE room_nid = $1 AND group_id = $2 AND thread_id = $3 AND ordinal < $4 ORDER BY ordinal DESC LIMIT 1
"""
_NOWHERE: Final = Vector(0, 0, {})


async def get_unread(source: Source, user_id: UserId, room_nid: int, end: int) -> UnreadSnapshot:
    """Return the unread counts of a joined user, up to an ordinal (inclusive) of the room."""
    found = await _read(source, user_id, [room_nid], [end], _NOWHERE)
    return found[room_nid]


async def get_unread_of_rooms(
    source: Source, user_id: UserId, room_nids: Sequence[int], vector: Vector
) -> dict[int, UnreadSnapshot]:
    """Return the unread counts of a user in rooms that they are joined to, each up to a vector of `events`."""
    return await _read(source, user_id, room_nids, [None] * len(room_nids), vector)


async def get_highlights_before(source: Source, room_nid: int, group: int, thread_id: str, ordinal: int) -> int:
    """Return the number of a group's events in a thread that highlighted, before an ordinal (exclusive)."""
    found: int | None = await source.fetchval(_HIGHLIGHTS, room_nid, group, thread_id, ordinal)
    return found or 0


async def _read(
    source: Source, user_id: UserId, room_nids: Sequence[int], ends: Sequence[int | None], vector: Vector
) -> dict[int, UnreadSnapshot]:
    rooms = _Rooms(room_nid=list(room_nids), ordinal=list(ends))
    record = _ReadUnread(user_id=user_id, rooms=rooms, vector=vector_parameter(vector))
    rows = await source.fetch(*_UNREAD.bind(record))
    return {
        room_nid: UnreadSnapshot(
            at=till,
            floor=floor,
            marks=dict(map(tuple, marks)),
            group=group,
            group_from=first,
            counts={thread: Count(n, h) for thread, n, h, _ in counts if n or h},
            highlights={thread: total for thread, _, _, total in counts if total is not None},
        )
        for room_nid, till, floor, marks, group, first, counts in rows
    }
