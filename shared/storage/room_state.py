"""The current state of a room."""

from collections.abc import Collection
from dataclasses import dataclass

from shared.storage.escape import unescape
from shared.storage.pool import Connection

#: Uses the primary keys of current_state, events and memberships. $2: types whose JSON is wanted as well.
_CURRENT = """
    SELECT s.type, s.state_key, s.event_nid, e.event_id, e.redacted_by IS NOT NULL AS redacted,
           m.membership, CASE WHEN s.type = ANY($2::text[]) THEN e.json END AS json
    FROM current_state s
    JOIN events e USING (room_nid, event_nid)
    LEFT JOIN memberships m
      ON s.type = 'm.room.member' AND m.room_nid = s.room_nid AND m.user_id = s.state_key
    WHERE s.room_nid = $1 AND (s.type, s.state_key) {after} ($3, $4) ORDER BY s.type, s.state_key LIMIT $5
"""
#: A type and a state key may both be empty: the first page has its own comparison.
_FIRST, _NEXT = _CURRENT.format(after=">="), _CURRENT.format(after=">")
_PAGE = 2000  # rows: some 15 ms of the loop


@dataclass(frozen=True, slots=True)
class StateRow:
    """One entry of the current state. membership: of m.room.member only; json: where it was asked for."""

    type: str
    state_key: str
    event_nid: int
    event_id: str
    redacted: bool
    membership: str | None
    json: bytes | None


async def get_current_state(conn: Connection, room_nid: int, with_json_of: Collection[str]) -> list[StateRow]:
    """Return the room's current state.

    conn: in a snapshot, since it is read in pages. with_json_of: the types whose events come with their JSON.
    """
    state: list[StateRow] = []
    sql, after = _FIRST, ("", "")
    while True:
        rows = await conn.fetch(sql, room_nid, list(with_json_of), *after, _PAGE)
        state.extend(
            StateRow(unescape(kind), unescape(state_key), nid, event_id, redacted, membership, json)
            for kind, state_key, nid, event_id, redacted, membership, json in rows
        )
        if len(rows) < _PAGE:
            return state
        sql, after = _NEXT, (rows[-1]["type"], rows[-1]["state_key"])
