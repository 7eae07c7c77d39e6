"""Rooms as a whole: which there are, where their timelines end."""

from dataclasses import dataclass

from shared.storage.pool import Connection

#: Uses rooms_room_id_key, the primary key of forward_extremities, events_room_nid_ordinal_key.
_ROOM = """
    SELECT r.room_nid, r.room_version, x.event_nids, last.ordinal, last.writer, last.position, deepest.depth
    FROM rooms r
    JOIN forward_extremities x USING (room_nid)
    CROSS JOIN LATERAL (
        SELECT ordinal, writer, position FROM events
        WHERE room_nid = r.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) last
    CROSS JOIN LATERAL (
        SELECT max(depth) AS depth FROM events WHERE room_nid = r.room_nid AND event_nid = ANY(x.event_nids)
    ) deepest
    WHERE r.room_id = $1
"""


@dataclass(frozen=True, slots=True)
class RoomEnd:
    """A room and where its timeline ends.

    extremities: events that nothing follows; depth: the greatest among them; last_ordinal, last_writer,
    last_position: of the latest live event.
    """

    room_nid: int
    room_version: str
    extremities: tuple[int, ...]
    last_ordinal: int
    last_writer: int
    last_position: int
    depth: int


async def get_room_end(conn: Connection, room_id: str) -> RoomEnd | None:
    """Return where the room's timeline ends; None for a room that we do not have."""
    row = await conn.fetchrow(_ROOM, room_id)
    if row is None:
        return None
    nid, version, extremities, ordinal, writer, position, depth = row
    return RoomEnd(nid, version, tuple(extremities), ordinal, writer, position, depth)
