"""A room's event graph: events with their places and states, snapshots, changes of the line, and gaps."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from shared.core.identifiers import EventId
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.pool import Source

#: Uses events_by_id.
_BY_ID = """
    SELECT event_nid, event_id, status, ordinal, anchor, back, state_nid, depth, redacted_by, json FROM events
    WHERE event_id = ANY($2::text[]) AND room_nid = $1
"""
#: Uses the primary key.
_BY_NID = """
    SELECT event_nid, event_id, status, ordinal, anchor, back, state_nid, depth, redacted_by, json FROM events
    WHERE event_nid = ANY($2::bigint[]) AND room_nid = $1
"""
#: Uses the primary key of state_snapshots; it reads one row per bit of the first one's `steps`, and the root.
_WALK = """
    WITH RECURSIVE walk AS (
        SELECT s.*, 0 AS place FROM state_snapshots s WHERE room_nid = $1 AND nid = $2
        UNION ALL
        SELECT s.*, walk.place + 1 FROM walk JOIN state_snapshots s ON s.room_nid = $1 AND s.nid = walk.parent
    )
    SELECT nid, parent, base, steps, added, removed FROM walk ORDER BY place
"""
#: The event that each key held before its first change from an ordinal on. Uses state_changes_by_ordinal and the
#: primary key of events.
_LINE = """
    SELECT c.type, c.state_key, c.prev_nid, p.event_id, CASE WHEN c.type = 'm.room.member' THEN p.json END
    FROM (
        SELECT DISTINCT ON (type, state_key) type, state_key, prev_nid FROM state_changes
        WHERE room_nid = $1 AND ordinal >= $2 AND ordinal < $3 ORDER BY type, state_key, ordinal
    ) AS c
    LEFT JOIN events p ON p.room_nid = $1 AND p.event_nid = c.prev_nid
"""
_GAPS = "SELECT anchor, missing FROM gaps WHERE room_nid = $1"
_GAPS_OF = (
    "SELECT anchor, missing FROM gaps WHERE room_nid = $1 AND (anchor = ANY($2::bigint[]) OR missing && $3::text[])"
)
#: The first redactions that arrived, also those of users who may not redact.
_AWAITED = """
    SELECT event_id, (array_agg(redaction_nid ORDER BY redaction_nid))[1:20] FROM awaited_redactions
    WHERE room_nid = $1 AND event_id = ANY($2::text[]) GROUP BY event_id
"""
#: Uses events_of_history.
_LAST_BACK = "SELECT coalesce(max(back), 0) FROM events WHERE room_nid = $1 AND anchor = $2"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphEvent:
    """A stored event and its place in the graph.

    status: as in `batch.py`.
    state_nid: snapshot of the state before it. None: the line before its ordinal.
    """

    event_nid: int
    event_id: EventId
    status: int
    ordinal: int | None
    anchor: int | None
    back: int | None
    state_nid: int | None
    depth: int
    redacted_by: int | None
    json: bytes


class LineChange(NamedTuple):
    """A key of the line that has changed.

    previous: (number, id, PDU if it is a member event) of the event that it held before. None: the key was not set.
    """

    type: str
    state_key: str
    previous: tuple[int, EventId, bytes | None] | None


async def get_graph_events(source: Source, room_nid: int, event_ids: Sequence[EventId]) -> list[GraphEvent]:
    """Return the room's events with these ids, whatever their status, in no particular order."""
    if not event_ids:
        return []
    return [GraphEvent(**row) for row in await source.fetch(_BY_ID, room_nid, list(event_ids))]


async def get_graph_events_by_nid(source: Source, room_nid: int, nids: Sequence[int]) -> list[GraphEvent]:
    """Return the room's events with these numbers, in no particular order."""
    return [GraphEvent(**row) for row in await source.fetch(_BY_NID, room_nid, list(nids))] if nids else []


async def get_snapshot_walk(source: Source, room_nid: int, nid: int) -> list[Snapshot]:
    """Return a snapshot and its ancestors, each followed by its parent; nothing if it does not exist."""
    rows = await source.fetch(_WALK, room_nid, nid)
    return [
        Snapshot(nid, parent, base, steps, tuple(added), tuple(removed))
        for nid, parent, base, steps, added, removed in rows
    ]


async def get_line_changes(source: Source, room_nid: int, start: int, end: int) -> list[LineChange]:
    """Return the keys of the line that changed from ordinal `start` (inclusive) to `end` (exclusive), each once."""
    rows = await source.fetch(_LINE, room_nid, start, end)
    return [
        LineChange(kind, state_key, None if nid is None else (nid, event_id, json))
        for kind, state_key, nid, event_id, json in rows
    ]


async def get_gaps(source: Source, room_nid: int) -> dict[int, list[EventId]]:
    """Return the room's gaps: ordinal of the live event after the gap -> ids of the missing events."""
    return {anchor: list(missing) for anchor, missing in await source.fetch(_GAPS, room_nid)}


async def get_gaps_of(
    source: Source, room_nid: int, anchors: Sequence[int], event_ids: Sequence[EventId]
) -> dict[int, list[EventId]]:
    """Return the gaps at these anchors, and those in which one of these events is missing, as `get_gaps` does."""
    rows = await source.fetch(_GAPS_OF, room_nid, list(anchors), list(event_ids))
    return {anchor: list(missing) for anchor, missing in rows}


async def get_awaited_redactions(source: Source, room_nid: int, event_ids: Sequence[EventId]) -> dict[str, list[int]]:
    """Return event id -> numbers of the redactions that arrived before the event, at most 20, earliest first."""
    return {row[0]: list(row[1]) for row in await source.fetch(_AWAITED, room_nid, list(event_ids))}


async def get_last_back(source: Source, room_nid: int, anchor: int) -> int:
    """Return the number of fetched events that are stored before this live event."""
    back: int = await source.fetchval(_LAST_BACK, room_nid, anchor)
    return back
