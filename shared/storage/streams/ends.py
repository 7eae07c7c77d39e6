"""The ends of streams in Postgres: their greatest positions as a whole, for one user, and by writer."""

import re
from collections.abc import Collection
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Source
from shared.storage.fleet.leases import FINAL_POSITIONS

#: Both are one row; `name` comes from the stream registry, never from a request.
_LEASES = "SELECT value FROM counters WHERE name = 'lease'"
#: Uses the primary keys of the tables.
_OWN_ENDS = """
    SELECT 'account_data' AS stream, writer, max(position) AS position
    FROM account_data WHERE user_id = $1 GROUP BY writer
    UNION ALL SELECT 'push_rules', writer, position FROM push_rules WHERE user_id = $1
    UNION ALL
    SELECT 'thread_subscriptions', writer, max(position) FROM thread_subscriptions WHERE user_id = $1 GROUP BY writer
"""
#: Uses memberships_by_user, events_room_nid_ordinal_key, and the primary keys of the other tables.
_ENDS = f"""
    WITH mine AS (SELECT room_nid, membership, writer, position FROM memberships WHERE user_id = $1)
    SELECT 'events' AS stream, e.writer, max(e.position) AS position
    FROM mine CROSS JOIN LATERAL (
        SELECT writer, position FROM events
        WHERE room_nid = mine.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) e WHERE mine.membership = 'join' GROUP BY e.writer
    UNION ALL SELECT 'events', writer, max(position) FROM mine GROUP BY writer
    UNION ALL {_OWN_ENDS}
    UNION ALL
    SELECT 'receipts', r.writer, max(r.position)
    FROM mine JOIN receipts r ON r.room_nid = mine.room_nid AND r.user_id = $1
    WHERE mine.membership = 'join' GROUP BY r.writer
"""


@dataclass(frozen=True, slots=True)
class StreamEnds:
    """lease: the greatest writer number so far. positions: by stream, the greatest position given."""

    lease: int
    positions: dict[str, int]


async def get_stream_ends(source: Source, streams: Collection[str]) -> StreamEnds:
    """Return the ends of streams that have a sequence `stream_<name>`."""
    columns = ", ".join(f"(SELECT last_value FROM stream_{name}) AS {name}" for name in streams)
    row = await source.fetchrow(f"SELECT ({_LEASES}) AS lease, {columns}")
    assert row is not None
    return StreamEnds(row["lease"], {name: row[name] for name in streams})


async def get_user_ends(source: Source, user_id: UserId, *, without_rooms: bool = False) -> dict[str, dict[int, int]]:
    """Return stream -> writer -> position of the latest row that is the user's own or of a room that they are in.

    Of receipts, the user's own only. A writer may have stored later rows that are neither.
    without_rooms: True leaves out events and receipts, whose reading costs more the more rooms the user is in.
    """
    ends: dict[str, dict[int, int]] = {}
    for row in await source.fetch(_OWN_ENDS if without_rooms else _ENDS, user_id):
        writers = ends.setdefault(row["stream"], {})
        writers[row["writer"]] = max(row["position"], writers.get(row["writer"], 0))
    return ends


#: Of these tables some rows have positions that are never announced: events outside of the timeline.
_FOLLOWED = {"events": " AND ordinal IS NOT NULL"}


def _recent(final_position: str) -> str:
    """Return, from the query of a final position, the query of those of every writer. It reads rows above $1 once."""
    tables = re.findall(r"FROM (\w+) WHERE writer = \$1", final_position)
    rows = " UNION ALL ".join(
        f"SELECT writer, position FROM {table} WHERE position > $1{_FOLLOWED.get(table, '')}" for table in tables
    )
    return f"SELECT writer, max(position) AS position FROM ({rows}) AS recent GROUP BY writer"


#: Each uses the stream's index by position.
_RECENT = {stream: _recent(query) for stream, query in FINAL_POSITIONS.items()}


async def get_stored_positions(source: Source, stream: str, above: int) -> dict[int, int]:
    """Return writer -> the greatest position above `above` of a row that it stored for readers to follow.

    Writers that stored none are left out.
    """
    return {row["writer"]: row["position"] for row in await source.fetch(_RECENT[stream], above)}
