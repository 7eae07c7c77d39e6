"""A room as its writer needs it: the end of its timeline, and its current state."""

from collections.abc import Collection
from dataclasses import dataclass

from shared.core.identifiers import EventId, RoomId
from shared.storage.engine.pool import Connection
from shared.storage.federation.standing import Standing

#: Uses rooms_room_id_key, the primary key of forward_extremities, events_room_nid_ordinal_key.
_ROOM = f"""
    SELECT r.room_nid, r.room_version, r.parked_reason, x.event_nids, last.ordinal, last.writer, last.position,
           deepest.depth
    FROM rooms r
    JOIN forward_extremities x USING (room_nid)
    CROSS JOIN LATERAL (
        SELECT ordinal, writer, position FROM events
        WHERE room_nid = r.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) last
    CROSS JOIN LATERAL (
        SELECT max(depth) AS depth FROM events WHERE room_nid = r.room_nid AND event_nid = ANY(x.event_nids)
    ) deepest
    WHERE r.room_id = $1 AND r.standing = {Standing.OURS.value}
"""
#: Uses the primary keys of current_state, events and memberships. $2: types whose JSON is read too.
_CURRENT = """
    SELECT s.type, s.state_key, s.event_nid, e.event_id, e.redacted_by IS NOT NULL AS redacted,
           m.membership, CASE WHEN s.type = ANY($2::text[]) THEN e.json END AS json,
           octet_length(e.json) AS bytes
    FROM current_state s
    JOIN events e USING (room_nid, event_nid)
    LEFT JOIN memberships m
      ON s.type = 'm.room.member' AND m.room_nid = s.room_nid AND m.user_id = s.state_key
    WHERE s.room_nid = $1 AND (s.type, s.state_key) {after} ($3, $4) ORDER BY s.type, s.state_key LIMIT $5
"""
#: Type and state key may both be empty, so the first page has its own comparison.
_FIRST, _NEXT = _CURRENT.format(after=">="), _CURRENT.format(after=">")
_PAGE = 2000  # rows: some 15 ms of the loop


@dataclass(frozen=True, slots=True)
class RoomEnd:
    """The end of a room's timeline.

    extremities: events that nothing follows.
    last_ordinal, last_writer, last_position: of the latest live event.
    depth: the greatest depth of the extremities.
    parked_reason: why the room's state is not resolved any more, None if it is.
    """

    room_nid: int
    room_version: str
    parked_reason: str | None
    extremities: tuple[int, ...]
    last_ordinal: int
    last_writer: int
    last_position: int
    depth: int


async def get_room_end(conn: Connection, room_id: RoomId) -> RoomEnd | None:
    """Return the end of the room's timeline, None if its state is not ours (`federation/standing.py`)."""
    row = await conn.fetchrow(_ROOM, room_id)
    if row is None:
        return None
    nid, version, parked_reason, extremities, ordinal, writer, position, depth = row
    return RoomEnd(nid, version, parked_reason, tuple(extremities), ordinal, writer, position, depth)


@dataclass(frozen=True, slots=True)
class StateRow:
    """One entry of the current state.

    membership: of m.room.member only. json: of the types whose JSON is read. bytes: its length.
    """

    type: str
    state_key: str
    event_nid: int
    event_id: EventId
    redacted: bool
    membership: str | None
    json: bytes | None
    bytes: int


async def get_current_state(conn: Connection, room_nid: int, with_json_of: Collection[str]) -> list[StateRow]:
    """Return the room's current state.

    conn: in a snapshot, since the state is read in pages.
    with_json_of: the types whose JSON is read.
    """
    state: list[StateRow] = []
    sql, after = _FIRST, ("", "")
    while True:
        rows = await conn.fetch(sql, room_nid, list(with_json_of), *after, _PAGE)
        state.extend(StateRow(*row) for row in rows)
        if len(rows) < _PAGE:
            return state
        sql, after = _NEXT, (rows[-1]["type"], rows[-1]["state_key"])
