"""A room's timeline: pages of it, single events, and the position of a token in it.

A room's live events have dense ordinals, so a position in its timeline is one number. Events of history, fetched later,
lie between them (`shared/core/history_point.py`). Rejected and soft-failed events and outliers are not in a timeline.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import asyncpg

from shared.core.events.relation import REFERENCE, REPLACE, THREAD
from shared.core.history_point import HistoryPoint
from shared.core.identifiers import EventId, RoomId
from shared.storage.engine.pool import Source

#: Joins use the primary key of events. They add the redaction and the replaced event, which `unsigned` shows.
EVENT_COLUMNS = """
    e.event_nid, e.event_id, e.writer, e.position, coalesce(e.ordinal, e.anchor, 0) AS ordinal, e.replaces_nid,
    e.txn_device, e.txn_id, e.json,
    x.event_nid AS redaction_nid, x.event_id AS redaction_id, coalesce(x.ordinal, x.anchor, 0) AS redaction_ordinal,
    x.json AS redaction_json, x.redacted_by IS NOT NULL AS redaction_redacted,
    p.event_id AS previous_id, coalesce(p.ordinal, p.anchor) AS previous_ordinal, p.json AS previous_json,
    p.redacted_by IS NOT NULL AS previous_redacted,
    coalesce(e.back, 0) AS back, e.state_nid, coalesce(e.gap, false) AS gap
"""
EVENT_JOINS = """
    LEFT JOIN events x ON x.room_nid = e.room_nid AND x.event_nid = e.redacted_by
    LEFT JOIN events p ON p.room_nid = e.room_nid AND p.event_nid = e.replaces_nid
"""
#: A page also tells if an aggregated event relates to the event, and if the sender of the event, of the one that it
#: replaced, or of its redaction was erased. Two look-ups, in events_by_relation and the primary key of erased_users;
#: few events have either. `LIMIT 1` keeps the planner from reading the whole tables instead.
_PAGE_COLUMNS = f"""{EVENT_COLUMNS},
    (SELECT true FROM events c WHERE c.room_nid = $1 AND c.relates_to = e.event_id
       AND c.rel_type IN ('{REPLACE}', '{THREAD}', '{REFERENCE}') AND c.status = 0 AND c.redacted_by IS NULL
       AND coalesce(c.ordinal, c.anchor) IS NOT NULL LIMIT 1) AS is_parent,
    (SELECT true FROM erased_users u WHERE u.user_id IN (e.sender, p.sender, x.sender) LIMIT 1) AS is_erased
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
#: The gap of the point is a branch of its own, since no index condition means "after this pair" if one of the two
#: ascends and the other descends.
_POINTS_BEFORE = f"""
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
_POINTS_FROM = f"""
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
#: Both use events_by_time; ties are in no particular order.
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
#: Uses events_room_nid_ordinal_key backwards. A vector covers a prefix of a room's timeline, so the first hit is its
#: end. $2 known, $3 base, $4 and $5 the writers above base and their positions.
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
    """A room.

    last_ordinal: of its latest live event, 0 if it has none.
    last_anchor: ordinal of the last live event before which events are missing or were fetched later. None: there is
        no such event.
    """

    room_nid: int
    room_id: RoomId
    room_version: str
    last_ordinal: int
    last_anchor: int | None


class TimelineRow(NamedTuple):
    """An accepted event as stored, with its redaction and, for state, the event that it replaced.

    ordinal, back: (ordinal, 0) of a live event; of history the anchor and the steps back from it. An event that is only
        part of some state has the ordinal 0.
    previous_ordinal: the same of the replaced event. None: that event is only part of some state.
    state_nid: snapshot of the state before it. None: the room's line before its ordinal.
    gap: True if events before it were missing when it arrived.
    json, redaction_json, previous_json: PDUs.
    redaction_ordinal: 0: the redaction is in no timeline.
    redaction_redacted: True if the redaction has been redacted itself.
    previous_redacted: True if the replaced event has been redacted itself.
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
    redaction_nid: int | None
    redaction_id: EventId | None
    redaction_ordinal: int
    redaction_json: bytes | None
    redaction_redacted: bool
    previous_id: EventId | None
    previous_ordinal: int | None
    previous_json: bytes | None
    previous_redacted: bool
    back: int
    state_nid: int | None
    gap: bool

    @property
    def point(self) -> HistoryPoint:
        return HistoryPoint(self.ordinal, -self.back)


class PageRows(NamedTuple):
    """A page of a timeline.

    rows: in the direction of reading.
    parents: numbers of the events that aggregated events relate to.
    erased: True if the sender of any of them, of an event that one replaced, or of a redaction of one was erased.
    """

    rows: list[TimelineRow]
    parents: set[int]
    erased: bool


def timeline_row(record: asyncpg.Record) -> TimelineRow:
    """Return the row of a record that begins with EVENT_COLUMNS."""
    return TimelineRow._make(record[: len(TimelineRow._fields)])


async def get_room(source: Source, room_id: RoomId) -> RoomRecord | None:
    """Return the room, None if it does not exist here."""
    row = await source.fetchrow(ROOM, room_id)
    return None if row is None else RoomRecord(*row)


async def get_timeline_before(source: Source, room_nid: int, ordinal: int, limit: int) -> list[TimelineRow]:
    """Return at most `limit` live events before an ordinal (exclusive), latest first."""
    return [timeline_row(row) for row in await source.fetch(_BEFORE, room_nid, ordinal, limit)]


async def get_page(
    source: Source, room_nid: int, point: HistoryPoint, limit: int, *, forward: bool, history: bool
) -> PageRows:
    """Return at most `limit` events from a point.

    forward: True for those from the point (inclusive) on, earliest first. False for those before it, latest first.
    history: False if the room has no events that are not live, which makes the query simpler.
    """
    if history:
        sql = _POINTS_FROM if forward else _POINTS_BEFORE
        found = await source.fetch(sql, room_nid, point.ordinal, -point.step, limit)
    else:
        found = await source.fetch(_FROM if forward else _BEFORE, room_nid, point.ordinal, limit)
    parents = {row["event_nid"] for row in found if row["is_parent"]}
    erased = any(row["is_erased"] for row in found)
    return PageRows([timeline_row(row) for row in found], parents, erased)


async def get_events_from(source: Source, room_nid: int, point: HistoryPoint, limit: int) -> list[TimelineRow]:
    """Return at most `limit` events from a point (inclusive) on, live ones and history, earliest first."""
    rows = await source.fetch(_POINTS_FROM, room_nid, point.ordinal, -point.step, limit)
    return [timeline_row(row) for row in rows]


async def get_gap_anchors(source: Source, room_nid: int, lowest: int, highest: int, limit: int) -> list[int]:
    """Return the live events between two ordinals (inclusive) before which events are missing, latest first."""
    return [row[0] for row in await source.fetch(_GAPS, room_nid, lowest, highest, limit)]


async def get_events_near_time(
    source: Source, room_nid: int, time_ms: int, *, forward: bool, limit: int, offset: int
) -> list[TimelineRow]:
    """Return events near a time.

    forward: True for events of that time or later, earliest first. False for that time or earlier, latest first.
    """
    sql = _SINCE_TIME if forward else _UNTIL_TIME
    return [timeline_row(row) for row in await source.fetch(sql, room_nid, time_ms, limit, offset)]


async def get_timeline_event(source: Source, room_nid: int, event_id: EventId) -> TimelineRow | None:
    """Return an accepted event of the room, live or of its history."""
    row = await source.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else timeline_row(row)


async def get_room_of_event(source: Source, event_id: EventId) -> RoomId | None:
    """Return the id of the event's room, None if the event is unknown."""
    room_id: RoomId | None = await source.fetchval(_ROOM_OF, event_id)
    return room_id


async def get_positions(source: Source, event_ids: Sequence[EventId]) -> dict[EventId, int]:
    """Return the positions of events in the stream `events`."""
    return {row[0]: row[1] for row in await source.fetch(_POSITIONS, list(event_ids))}


async def get_events_by_nid(source: Source, room_nid: int, event_nids: Sequence[int]) -> list[TimelineRow]:
    """Return the room's events with these numbers, in no particular order."""
    return [timeline_row(row) for row in await source.fetch(_BY_NIDS, room_nid, list(event_nids))]


async def get_ordinal_at(source: Source, room_nid: int, known: int, base: int, above: Mapping[int, int]) -> int:
    """Return the ordinal of the room's latest event that a vector covers, 0 if there is none.

    known, base, above: the parts of a `Vector`.
    """
    ordinal: int | None = await source.fetchval(_ORDINAL_AT, room_nid, known, base, list(above), list(above.values()))
    return ordinal or 0


async def get_rooms_active_since(
    source: Source, room_nids: Sequence[int], event_position: int, receipt_position: int
) -> set[int]:
    """Return those of the rooms whose latest event, or any receipt, has a greater position.

    Given the least positions of a vector, this returns every room with news after it, and perhaps some without.
    """
    rows = await source.fetch(_ACTIVE, list(room_nids), event_position, receipt_position)
    return {row[0] for row in rows}
