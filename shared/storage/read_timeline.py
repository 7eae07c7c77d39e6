"""Reading events: pages of a room's timeline, single events, and where a token stands in a room.

A room's live events have dense ordinals, so a place in its timeline is one number. Rejected and soft-failed events
have ordinals too, perhaps, but are never read here.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import asyncpg

from shared.storage.read_source import Source

#: Joins use the primary key of events. A redaction and a replaced event come along: `unsigned` shows both.
EVENT_COLUMNS = """
    e.event_nid, e.event_id, e.writer, e.position, e.ordinal, e.replaces_nid, e.txn_device, e.txn_id, e.json,
    x.event_id AS redaction_id, x.json AS redaction_json,
    p.event_id AS previous_id, p.ordinal AS previous_ordinal, p.json AS previous_json,
    p.redacted_by IS NOT NULL AS previous_redacted
"""
EVENT_JOINS = """
    LEFT JOIN events x ON x.room_nid = e.room_nid AND x.event_nid = e.redacted_by
    LEFT JOIN events p ON p.room_nid = e.room_nid AND p.event_nid = e.replaces_nid
"""
#: Both use events_room_nid_ordinal_key.
_BEFORE = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.ordinal < $2 AND e.status = 0 ORDER BY e.ordinal DESC LIMIT $3
"""
_FROM = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.room_nid = $1 AND e.ordinal >= $2 AND e.status = 0 ORDER BY e.ordinal LIMIT $3
"""
#: Uses events_by_id.
_BY_ID = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS}
    WHERE e.event_id = $2 AND e.room_nid = $1 AND e.status = 0 AND e.ordinal IS NOT NULL
"""
#: Uses the primary key.
_BY_NIDS = f"""
    SELECT {EVENT_COLUMNS} FROM events e {EVENT_JOINS} WHERE e.room_nid = $1 AND e.event_nid = ANY($2::bigint[])
"""
#: Uses rooms_room_id_key and events_room_nid_ordinal_key.
_ROOM = """
    SELECT r.room_nid, r.room_id, r.room_version, coalesce(last.ordinal, 0) AS last_ordinal
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
    """A room that we have; last_ordinal: of its latest live event, 0 without any."""

    room_nid: int
    room_id: str
    room_version: str
    last_ordinal: int


@dataclass(frozen=True, slots=True)
class TimelineRow:
    """An accepted live event as stored, with its redaction and, for state, what it replaced.

    json, redaction_json, previous_json: PDUs. previous_redacted: the replaced event has been redacted itself.
    """

    event_nid: int
    event_id: str
    writer: int
    position: int
    ordinal: int
    replaces_nid: int | None
    txn_device: str | None
    txn_id: str | None
    json: bytes
    redaction_id: str | None
    redaction_json: bytes | None
    previous_id: str | None
    previous_ordinal: int | None
    previous_json: bytes | None
    previous_redacted: bool


def timeline_row(record: asyncpg.Record) -> TimelineRow:
    """Return the row of a record that begins with EVENT_COLUMNS."""
    return TimelineRow(*tuple(record)[:15])


async def get_room(source: Source, room_id: str) -> RoomRecord | None:
    """Return the room; None for one that we do not have."""
    if "\x00" in room_id:
        return None  # PostgreSQL would refuse the parameter
    row = await source.fetchrow(_ROOM, room_id)
    return None if row is None else RoomRecord(*row)


async def get_timeline_before(source: Source, room_nid: int, ordinal: int, limit: int) -> list[TimelineRow]:
    """Return at most `limit` events before an ordinal (exclusive), latest first."""
    return [timeline_row(row) for row in await source.fetch(_BEFORE, room_nid, ordinal, limit)]


async def get_timeline_from(source: Source, room_nid: int, ordinal: int, limit: int) -> list[TimelineRow]:
    """Return at most `limit` events from an ordinal (inclusive) on, earliest first."""
    return [timeline_row(row) for row in await source.fetch(_FROM, room_nid, ordinal, limit)]


async def get_timeline_event(source: Source, room_nid: int, event_id: str) -> TimelineRow | None:
    """Return an accepted live event of the room."""
    if "\x00" in event_id:
        return None
    row = await source.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else timeline_row(row)


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
