"""Reading events: pages of a room's timeline, single events, and where a token stands in a room.

A room's live events have dense ordinals, so a place in its timeline is one number; events of history, fetched later,
lie between them (`shared/core/history_point.py`). Rejected and soft-failed events and outliers are never part of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from shared.core.events.relation import REFERENCE, REPLACE, THREAD
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, RoomId
from shared.storage.engine.pool import Source

#: Joins use the primary key of events. A redaction and a replaced event come along: `unsigned` shows both.
EVENT_COLUMNS = """
    e.event_nid, e.event_id, e.writer, e.position, coalesce(e.ordinal, e.anchor, 0) AS ordinal, e.replaces_nid,
    e.txn_device, e.txn_id, e.json,
    x.event_id AS redaction_id, x.json AS redaction_json,
    p.event_id AS previous_id, coalesce(p.ordinal, p.anchor) AS previous_ordinal, p.json AS previous_json,
    p.redacted_by IS NOT NULL AS previous_redacted,
    coalesce(e.back, 0) AS back, e.state_nid, coalesce(e.gap, false) AS gap
"""
EVENT_JOINS = """
    LEFT JOIN events x ON x.room_nid = e.room_nid AND x.event_nid = e.redacted_by
    LEFT JOIN events p ON p.room_nid = e.room_nid AND p.event_nid = e.replaces_nid
"""
#: What a page tells beside: whether anything that is summed up relates to the event, and whether who sent it, or what
#: it replaced, was erased. Two look-ups, in events_by_relation and the primary key of erased_users; few events, if any,
#: have either. `LIMIT 1` keeps the planner from reading the whole tables once instead.
_PAGE_COLUMNS = f"""{EVENT_COLUMNS},
    (SELECT true FROM events c WHERE c.room_nid = $1 AND c.relates_to = e.event_id
       AND c.rel_type IN ('{REPLACE}', '{THREAD}', '{REFERENCE}') AND c.status = 0 AND c.redacted_by IS NULL
       AND coalesce(c.ordinal, c.anchor) IS NOT NULL LIMIT 1) AS is_parent,
    (SELECT true FROM erased_users u WHERE u.user_id IN (e.sender, p.sender) LIMIT 1) AS is_erased
"""
#: Both use events_room_nid_ordinal_key: live events only.
_BEFORE = f"""
    SELECT {_PAGE_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.ordinal < $2 AND e.status = 0 ORDER BY e.ordinal DESC LIMIT $3
"""
_FROM = f"""
    SELECT {_PAGE_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.ordinal >= $2 AND e.status = 0 ORDER BY e.ordinal LIMIT $3
"""
#: Both merge events_room_nid_ordinal_key and events_of_history, each read in its own order no further than the limit.
#: The gap in which the place lies is a branch of its own, since no index condition says "behind this pair" when one
#: of the two goes up and the other down.
_PLACES_BEFORE = f"""
    SELECT {_PAGE_COLUMNS} FROM (
        SELECT * FROM (
            (SELECT event_nid, ordinal AS place, 0 AS back FROM events
             WHERE room_nid = $1 AND ordinal < $2 AND status = 0 ORDER BY ordinal DESC LIMIT $4)
            UNION ALL
            (SELECT event_nid, anchor, back FROM events
             WHERE room_nid = $1 AND anchor = $2 AND back > $3 AND status = 0 ORDER BY back LIMIT $4)
            UNION ALL
            (SELECT event_nid, anchor, back FROM events
             WHERE room_nid = $1 AND anchor < $2 AND status = 0 ORDER BY anchor DESC, back LIMIT $4)
        ) AS near ORDER BY place DESC, back LIMIT $4
    ) AS n JOIN events e ON e.room_nid = $1 AND e.event_nid = n.event_nid {EVENT_JOINS}
    ORDER BY n.place DESC, n.back
"""
_PLACES_FROM = f"""
    SELECT {_PAGE_COLUMNS} FROM (
        SELECT * FROM (
            (SELECT event_nid, ordinal AS place, 0 AS back FROM events
             WHERE room_nid = $1 AND ordinal >= $2 AND status = 0 ORDER BY ordinal LIMIT $4)
            UNION ALL
            (SELECT event_nid, anchor, back FROM events
             WHERE room_nid = $1 AND anchor = $2 AND back <= $3 AND status = 0 ORDER BY back DESC LIMIT $4)
            UNION ALL
            (SELECT event_nid, anchor, back FROM events
             WHERE room_nid = $1 AND anchor > $2 AND status = 0 ORDER BY anchor, back DESC LIMIT $4)
        ) AS near ORDER BY place, back DESC LIMIT $4
    ) AS n JOIN events e ON e.room_nid = $1 AND e.event_nid = n.event_nid {EVENT_JOINS}
    ORDER BY n.place, n.back DESC
"""
#: Uses the primary key of gaps.
_GAPS = "SELECT anchor FROM gaps WHERE room_nid = $1 AND anchor >= $2 AND anchor <= $3 ORDER BY anchor DESC LIMIT $4"
#: Uses events_by_id.
_BY_ID = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.event_id = $2 AND e.room_nid = $1 AND e.status = 0 AND (e.ordinal IS NOT NULL OR e.anchor IS NOT NULL)
"""
#: Uses events_by_id.
_ROOM_OF = "SELECT r.room_id FROM events e JOIN rooms r USING (room_nid) WHERE e.event_id = $1"
#: Uses events_by_id.
_POSITIONS = "SELECT event_id, position FROM events WHERE event_id = ANY($1::text[])"
#: Both use events_by_time; ties in no order.
_SINCE_TIME = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.origin_server_ts >= $2 AND e.status = 0
      AND (e.ordinal IS NOT NULL OR e.anchor IS NOT NULL)
    ORDER BY e.origin_server_ts LIMIT $3 OFFSET $4
"""
_UNTIL_TIME = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.origin_server_ts <= $2 AND e.status = 0
      AND (e.ordinal IS NOT NULL OR e.anchor IS NOT NULL)
    ORDER BY e.origin_server_ts DESC LIMIT $3 OFFSET $4
"""
#: Uses the primary key.
_BY_NIDS = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS} WHERE e.room_nid = $1 AND e.event_nid = ANY($2::bigint[])
"""
#: Uses rooms_room_id_key, events_room_nid_ordinal_key, events_of_history and the primary key of gaps.
ROOM = """
    SELECT r.room_nid, r.room_id, r.room_version, coalesce(last.ordinal, 0) AS last_ordinal,
           greatest((SELECT max(anchor) FROM events WHERE room_nid = r.room_nid AND anchor IS NOT NULL),
                    (SELECT max(anchor) FROM gaps WHERE room_nid = r.room_nid)) AS last_anchor
    FROM rooms r LEFT JOIN LATERAL (
        SELECT ordinal FROM events WHERE room_nid = r.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) last ON true
    WHERE r.room_id = $1
"""
#: Uses events_room_nid_ordinal_key backwards. What a vector covers of a room is a prefix of it, so the first hit is
#: the place. $2 known, $3 base, $4 and $5 the writers above base and their positions.
_ORDINAL_AT = """
    SELECT e.ordinal FROM events e
    LEFT JOIN unnest($4::bigint[], $5::bigint[]) AS v(writer, position) USING (writer)
    WHERE e.room_nid = $1 AND e.ordinal IS NOT NULL AND e.writer <= $2 AND e.position <= coalesce(v.position, $3)
    ORDER BY e.ordinal DESC LIMIT 1
"""

#: Uses events_room_nid_ordinal_key and the primary key of receipts. $2, $3: positions in `events` and `receipts`.
_ACTIVE = """
    SELECT n.room_nid FROM unnest($1::bigint[]) AS n(room_nid)
    WHERE (SELECT position FROM events WHERE room_nid = n.room_nid AND ordinal IS NOT NULL
           ORDER BY ordinal DESC LIMIT 1) > $2
       OR EXISTS (SELECT FROM receipts r WHERE r.room_nid = n.room_nid AND r.position > $3)
"""


@dataclass(frozen=True, slots=True)
class RoomRecord:
    """A room that we have; last_ordinal: of its latest live event, 0 without any.

    last_anchor: of the last live event before which something is missing or was fetched later; None where nothing is.
    """

    room_nid: int
    room_id: RoomId
    room_version: str
    last_ordinal: int
    last_anchor: int | None


class TimelineRow(NamedTuple):
    """An accepted event as stored, with its redaction and, for state, what it replaced.

    ordinal, back: its place; of history the anchor and the steps back from it, for live events (ordinal, 0). An event
    that is only known as a part of some state has the ordinal 0. previous_ordinal: likewise, None in its last case.
    state_nid: snapshot of the state before it; None: the room's line before its ordinal. gap: when it came, events
    before it were missing.
    json, redaction_json, previous_json: PDUs. previous_redacted: the replaced event has been redacted itself.
    """

    event_nid: int
    event_id: EventId
    writer: int
    position: int
    ordinal: int
    replaces_nid: int | None
    txn_device: str | None
    txn_id: str | None
    json: bytes
    redaction_id: EventId | None
    redaction_json: bytes | None
    previous_id: EventId | None
    previous_ordinal: int | None
    previous_json: bytes | None
    previous_redacted: bool
    back: int
    state_nid: int | None
    gap: bool

    @property
    def place(self) -> HistoryPoint:
        return HistoryPoint(self.ordinal, -self.back)


class PageRows(NamedTuple):
    """rows: in the direction of reading. parents: numbers of those to which something relates that is summed up.

    erased: whether the sender of any of them, or of what one replaced, was erased.
    """

    rows: list[TimelineRow]
    parents: set[int]
    erased: bool


def timeline_row(record: asyncpg.Record) -> TimelineRow:
    """Return the row of a record that begins with EVENT_COLUMNS."""
    return TimelineRow._make(record[:18])


async def get_room(source: Source, room_id: RoomId) -> RoomRecord | None:
    """Return the room; None for one that we do not have."""
    row = await source.fetchrow(ROOM, room_id)
    return None if row is None else RoomRecord(*row)


async def get_timeline_before(source: Source, room_nid: int, ordinal: int, limit: int) -> list[TimelineRow]:
    """Return at most `limit` live events before an ordinal (exclusive), latest first."""
    return [timeline_row(row) for row in await source.fetch(_BEFORE, room_nid, ordinal, limit)]


async def get_page(
    source: Source, room_nid: int, place: HistoryPoint, limit: int, *, forward: bool, history: bool
) -> PageRows:
    """Return at most `limit` events from a place (inclusive) on, earliest first; else before it, latest first.

    history: whether the room has any events that are not live, or may have; without, the question is a simpler one.
    """
    if history:
        sql = _PLACES_FROM if forward else _PLACES_BEFORE
        found = await source.fetch(sql, room_nid, place.ordinal, -place.step, limit)
    else:
        found = await source.fetch(_FROM if forward else _BEFORE, room_nid, place.ordinal, limit)
    parents = {row["event_nid"] for row in found if row["is_parent"]}
    erased = any(row["is_erased"] for row in found)
    return PageRows([timeline_row(row) for row in found], parents, erased)


async def get_places_from(source: Source, room_nid: int, place: HistoryPoint, limit: int) -> list[TimelineRow]:
    """Return at most `limit` events from a place (inclusive) on, live ones and history, earliest first."""
    rows = await source.fetch(_PLACES_FROM, room_nid, place.ordinal, -place.step, limit)
    return [timeline_row(row) for row in rows]


async def get_gap_anchors(source: Source, room_nid: int, lowest: int, highest: int, limit: int) -> list[int]:
    """Return the live events between two ordinals (inclusive) before which something is missing, latest first."""
    return [row[0] for row in await source.fetch(_GAPS, room_nid, lowest, highest, limit)]


async def get_events_near_time(
    source: Source, room_nid: int, time_ms: int, *, forward: bool, limit: int, offset: int
) -> list[TimelineRow]:
    """Return events of that time or later, earliest first; else of that time or earlier, latest first."""
    sql = _SINCE_TIME if forward else _UNTIL_TIME
    return [timeline_row(row) for row in await source.fetch(sql, room_nid, time_ms, limit, offset)]


async def get_timeline_event(source: Source, room_nid: int, event_id: EventId) -> TimelineRow | None:
    """Return an accepted event of the room, live or of its history."""
    row = await source.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else timeline_row(row)


async def get_room_of_event(source: Source, event_id: EventId) -> RoomId | None:
    """Return the id of the room that the event is in; None for an event that we do not have."""
    room_id: RoomId | None = await source.fetchval(_ROOM_OF, event_id)
    return room_id


async def get_positions(source: Source, event_ids: Sequence[EventId]) -> dict[EventId, int]:
    """Return the positions of events in the stream `events`."""
    return {row[0]: row[1] for row in await source.fetch(_POSITIONS, list(event_ids))}


async def get_events_by_nid(source: Source, room_nid: int, event_nids: Sequence[int]) -> list[TimelineRow]:
    """Return the room's events with these ids, in no particular order."""
    return [timeline_row(row) for row in await source.fetch(_BY_NIDS, room_nid, list(event_nids))]


async def get_ordinal_at(source: Source, room_nid: int, known: int, base: int, above: Mapping[int, int]) -> int:
    """Return the ordinal of the room's latest event behind a vector; 0 when none is.

    known, base, above: the parts of a `Vector`.
    """
    ordinal: int | None = await source.fetchval(_ORDINAL_AT, room_nid, known, base, list(above), list(above.values()))
    return ordinal or 0


async def get_rooms_active_since(
    source: Source, room_nids: Sequence[int], event_position: int, receipt_position: int
) -> set[int]:
    """Return those of the rooms whose latest event, or any receipt, has a greater position.

    Given the least positions of a vector this names every room with news behind it, and perhaps some without.
    """
    rows = await source.fetch(_ACTIVE, list(room_nids), event_position, receipt_position)
    return {row[0] for row in rows}
