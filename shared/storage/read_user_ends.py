"""How far the streams have come for one user: what an answer without a token must cover at least."""

from shared.storage.read_source import Source

#: Uses memberships_by_user, events_room_nid_ordinal_key, and the primary keys of the other tables.
_ENDS = """
    WITH mine AS (SELECT room_nid, membership, writer, position FROM memberships WHERE user_id = $1)
    SELECT 'events' AS stream, e.writer, max(e.position) AS position
    FROM mine CROSS JOIN LATERAL (
        SELECT writer, position FROM events
        WHERE room_nid = mine.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) e WHERE mine.membership = 'join' GROUP BY e.writer
    UNION ALL SELECT 'events', writer, max(position) FROM mine GROUP BY writer
    UNION ALL SELECT 'account_data', writer, max(position) FROM account_data WHERE user_id = $1 GROUP BY writer
    UNION ALL SELECT 'push_rules', writer, position FROM push_rules WHERE user_id = $1
    UNION ALL
    SELECT 'thread_subscriptions', writer, max(position) FROM thread_subscriptions WHERE user_id = $1 GROUP BY writer
    UNION ALL
    SELECT 'receipts', r.writer, max(r.position)
    FROM mine JOIN receipts r ON r.room_nid = mine.room_nid AND r.user_id = $1
    WHERE mine.membership = 'join' GROUP BY r.writer
"""


async def get_user_ends(source: Source, user_id: str) -> dict[str, dict[int, int]]:
    """Return stream -> writer -> position of the latest row that is the user's own or of a room that he is in.

    Of receipts: his own only. A writer may have stored later rows; none of them is such a one.
    """
    ends: dict[str, dict[int, int]] = {}
    for row in await source.fetch(_ENDS, user_id):
        writers = ends.setdefault(row["stream"], {})
        writers[row["writer"]] = max(row["position"], writers.get(row["writer"], 0))
    return ends
