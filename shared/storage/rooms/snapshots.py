"""The state at an event that does not have the room's line as its state: on a fork, or in history.

Such a state is a snapshot: a walk of differences down to the line before some ordinal (0002_room_graph.sql,
`shared/core/state_snapshots.py`). Of two entries for one key, the one nearer to the start of the walk holds.
"""

from collections.abc import Collection, Sequence
from typing import TypeAlias

from shared.storage.engine.pool import Source
from shared.storage.events.timeline import EVENT_COLUMNS, EVENT_JOINS, TimelineRow, timeline_row
from shared.storage.rooms.state import get_state_before

#: (type, state key) -> number of the event that holds it.
Held: TypeAlias = dict[tuple[str, str], int]

#: The changes of a snapshot's row. rank: an event that a key gets precedes one that it loses.
_ENTRIES = "SELECT unnest(s.added) AS event_nid, 0 AS rank UNION ALL SELECT unnest(s.removed), 1"
#: Uses the primary keys of state_snapshots, events and state_changes. $2: the snapshot.
_STATE = f"""
    WITH RECURSIVE walk AS (
        SELECT s.nid, s.parent, s.base, 0 AS place FROM state_snapshots s WHERE room_nid = $1 AND nid = $2
        UNION ALL
        SELECT s.nid, s.parent, s.base, w.place + 1
        FROM walk w JOIN state_snapshots s ON s.room_nid = $1 AND s.nid = w.parent
    ), overlay AS (
        SELECT DISTINCT ON (c.type, c.state_key) c.type, c.state_key, c.event_nid, entry.rank
        FROM walk w JOIN state_snapshots s ON s.room_nid = $1 AND s.nid = w.nid
        CROSS JOIN LATERAL ({_ENTRIES}) AS entry
        JOIN events c ON c.room_nid = $1 AND c.event_nid = entry.event_nid
        ORDER BY c.type, c.state_key, w.place, entry.rank
    ), line AS (
        SELECT DISTINCT ON (type, state_key) type, state_key, event_nid FROM state_changes
        WHERE room_nid = $1 AND ordinal < (SELECT base FROM walk WHERE base IS NOT NULL)
        ORDER BY type, state_key, ordinal DESC
    ), held AS (
        SELECT event_nid FROM overlay WHERE rank = 0
        UNION ALL
        SELECT l.event_nid FROM line l LEFT JOIN overlay o USING (type, state_key)
        WHERE o.type IS NULL AND l.event_nid IS NOT NULL
    )
    SELECT {EVENT_COLUMNS} FROM held h JOIN events e ON e.room_nid = $1 AND e.event_nid = h.event_nid {EVENT_JOINS}
"""
#: Uses the same. $2: snapshots, which share most of their walks; $3, $4: types and state keys.
_KEYS = f"""
    WITH RECURSIVE walk AS (
        SELECT s.nid AS start, s.nid, s.parent, s.base, 0 AS place
        FROM state_snapshots s WHERE room_nid = $1 AND nid = ANY($2::bigint[])
        UNION ALL
        SELECT w.start, s.nid, s.parent, s.base, w.place + 1
        FROM walk w JOIN state_snapshots s ON s.room_nid = $1 AND s.nid = w.parent
    ), wanted AS (
        SELECT * FROM unnest($3::text[], $4::text[]) AS k(type, state_key)
    ), held AS MATERIALIZED (
        SELECT r.nid, k.type, k.state_key, c.event_nid, entry.rank
        FROM (SELECT DISTINCT nid FROM walk) AS r JOIN state_snapshots s ON s.room_nid = $1 AND s.nid = r.nid
        CROSS JOIN LATERAL ({_ENTRIES}) AS entry
        JOIN events c ON c.room_nid = $1 AND c.event_nid = entry.event_nid
        JOIN wanted k ON k.type = c.type AND k.state_key = c.state_key
        UNION ALL
        SELECT r.nid, k.type, k.state_key, l.event_nid, 2
        FROM (SELECT DISTINCT nid, base FROM walk WHERE base IS NOT NULL) AS r CROSS JOIN wanted k
        CROSS JOIN LATERAL (
            SELECT event_nid FROM state_changes
            WHERE room_nid = $1 AND type = k.type AND state_key = k.state_key AND ordinal < r.base
            ORDER BY ordinal DESC LIMIT 1
        ) AS l
    )
    SELECT DISTINCT ON (w.start, h.type, h.state_key) w.start, h.type, h.state_key,
           CASE WHEN h.rank <> 1 THEN h.event_nid END AS event_nid
    FROM walk w JOIN held h USING (nid) ORDER BY w.start, h.type, h.state_key, w.place, h.rank
"""


async def get_state_at_event(source: Source, room_nid: int, ordinal: int, state_nid: int | None) -> list[TimelineRow]:
    """Return the whole state before an event, in no particular order.

    ordinal, state_nid: the event's, as in `TimelineRow`. History without a snapshot has the line before its anchor.
    """
    if state_nid is None:
        return await get_state_before(source, room_nid, ordinal)
    return await get_state_at_snapshot(source, room_nid, state_nid)


async def get_state_at_snapshot(source: Source, room_nid: int, nid: int) -> list[TimelineRow]:
    """Return the whole state of a snapshot, in no particular order; nothing if the snapshot does not exist."""
    return [timeline_row(row) for row in await source.fetch(_STATE, room_nid, nid)]


async def get_keys_at_snapshots(
    source: Source, room_nid: int, nids: Collection[int], keys: Sequence[tuple[str, str]]
) -> dict[int, Held]:
    """Return, for each of these snapshots, those of the keys that its state has."""
    types, state_keys = [kind for kind, _ in keys], [state_key for _, state_key in keys]
    held: dict[int, Held] = {nid: {} for nid in nids}
    for start, kind, state_key, event_nid in await source.fetch(_KEYS, room_nid, list(nids), types, state_keys):
        if event_nid is not None:
            held[start][kind, state_key] = event_nid
    return held
