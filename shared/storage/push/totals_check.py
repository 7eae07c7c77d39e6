"""Consistency of what events count, for `skep check rooms`."""

from shared.storage.engine.pool import Source

#: Each row adds one notification, and at most one highlight, to the row before it of the same group and thread; a
#: purge's total at ordinal 0 may be anything. Its event says that it notified that group, in that thread.
#: Uses the primary key of push_counters, events_room_nid_ordinal_key.
_WRONG_TOTALS = """
    SELECT c.ordinal, c.group_id, c.thread_id FROM (
        SELECT group_id, thread_id, ordinal, notifies, highlights,
               coalesce(lag(notifies) OVER w, 0) AS notifies_before,
               coalesce(lag(highlights) OVER w, 0) AS highlights_before
        FROM push_counters WHERE room_nid = $1
        WINDOW w AS (PARTITION BY group_id, thread_id ORDER BY ordinal)
    ) AS c
    LEFT JOIN events e ON e.room_nid = $1 AND e.ordinal = c.ordinal
    WHERE c.ordinal > 0 AND (
        c.notifies <> c.notifies_before + 1
        OR c.highlights NOT IN (c.highlights_before, c.highlights_before + 1)
        OR c.ordinal >= (SELECT first_ordinal FROM rooms WHERE room_nid = $1) AND NOT coalesce(
            c.group_id = ANY(e.push_groups) AND c.thread_id = coalesce(e.thread_id, ''), false))
    ORDER BY c.ordinal LIMIT $2
"""
#: Events that notified a group, according to themselves, and have no total.
_NO_TOTALS = """
    SELECT e.ordinal, g.group_id, coalesce(e.thread_id, '')
    FROM events e CROSS JOIN LATERAL unnest(e.push_groups) AS g(group_id)
    WHERE e.room_nid = $1 AND e.push_groups IS NOT NULL
      AND e.ordinal >= (SELECT first_ordinal FROM rooms WHERE room_nid = $1)
      AND NOT EXISTS (
        SELECT FROM push_counters c WHERE c.room_nid = $1 AND c.group_id = g.group_id
          AND c.thread_id = coalesce(e.thread_id, '') AND c.ordinal = e.ordinal)
    ORDER BY e.ordinal LIMIT $2
"""


async def get_wrong_totals(source: Source, room_nid: int, limit: int) -> list[tuple[int, int, str]]:
    """Return (ordinal, group, thread id) of events whose running totals are wrong or missing."""
    rows = [*await source.fetch(_WRONG_TOTALS, room_nid, limit), *await source.fetch(_NO_TOTALS, room_nid, limit)]
    return [(ordinal, group, thread_id) for ordinal, group, thread_id in rows]
