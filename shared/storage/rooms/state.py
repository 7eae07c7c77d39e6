"""A room's state: the current one, the state at any point of its timeline, and its changes.

`state_changes` has every change with the ordinal at which it took effect. The state before ordinal n is without n's own
change.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass

from shared.storage.engine.pool import Source
from shared.storage.events.timeline import EVENT_COLUMNS, EVENT_JOINS, TimelineRow, timeline_row

#: All use the primary keys of current_state and events.
_CURRENT = f"""
    SELECT {EVENT_COLUMNS} FROM current_state s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
    WHERE s.room_nid = $1
"""
_CURRENT_WITHOUT_MEMBERS = _CURRENT + " AND (s.type < 'm.room.member' OR s.type > 'm.room.member')"
_CURRENT_KEYS = f"""
    SELECT {EVENT_COLUMNS} FROM unnest($2::text[], $3::text[]) AS k(type, state_key)
    JOIN current_state s ON s.room_nid = $1 AND s.type = k.type AND s.state_key = k.state_key
    JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
#: Use the primary key of state_changes.
_AT = f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT DISTINCT ON (type, state_key) room_nid, event_nid FROM state_changes
        WHERE room_nid = $1 AND ordinal < $2 AND ($3 OR type <> 'm.room.member')
        ORDER BY type, state_key, ordinal DESC
    ) s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
_MEMBERS_AT = f"""
    SELECT {EVENT_COLUMNS} FROM (
        SELECT DISTINCT ON (state_key) room_nid, event_nid FROM state_changes
        WHERE room_nid = $1 AND type = 'm.room.member' AND ordinal < $2 ORDER BY state_key, ordinal DESC
    ) s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
#: The same, a page at a time. LEFT JOIN: a page may end with a user who left the state by then.
_MEMBERS_PAGE = f"""
    SELECT {EVENT_COLUMNS}, s.state_key FROM (
        SELECT DISTINCT ON (state_key) room_nid, event_nid, state_key FROM state_changes
        WHERE room_nid = $1 AND type = 'm.room.member' AND ordinal < $2 AND state_key > $3
        ORDER BY state_key, ordinal DESC LIMIT $4
    ) s LEFT JOIN events e USING (room_nid, event_nid) {EVENT_JOINS} ORDER BY s.state_key
"""
_AT_KEYS = f"""
    SELECT {EVENT_COLUMNS} FROM unnest($3::text[], $4::text[]) AS k(type, state_key)
    CROSS JOIN LATERAL (
        SELECT room_nid, event_nid FROM state_changes
        WHERE room_nid = $1 AND type = k.type AND state_key = k.state_key AND ordinal < $2
        ORDER BY ordinal DESC LIMIT 1
    ) s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
#: Uses the primary key of state_changes: every value that one key ever had.
KEY_HISTORY = """
    SELECT c.ordinal, e.json FROM state_changes c LEFT JOIN events e USING (room_nid, event_nid)
    WHERE c.room_nid = {room} AND c.type = {type} AND c.state_key = {state_key} ORDER BY c.ordinal
"""
_HISTORY = KEY_HISTORY.format(room="$1", type="$2", state_key="$3")
#: Uses the primary keys of memberships and events.
_JOINED = """
    SELECT m.user_id, CASE WHEN e.redacted_by IS NULL THEN e.json END
    FROM memberships m JOIN events e USING (room_nid, event_nid)
    WHERE m.room_nid = $1 AND m.membership = 'join' ORDER BY m.ordinal
"""


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A value of a key, from an ordinal on. json: the PDU. None: the key left the state."""

    ordinal: int
    json: bytes | None


async def get_current_state_events(source: Source, room_nid: int, *, members: bool = True) -> list[TimelineRow]:
    """Return the events of the current state, in no particular order. members: False to leave m.room.member out."""
    sql = _CURRENT if members else _CURRENT_WITHOUT_MEMBERS
    return [timeline_row(row) for row in await source.fetch(sql, room_nid)]


async def get_current_keys(source: Source, room_nid: int, keys: Sequence[tuple[str, str]]) -> list[TimelineRow]:
    """Return the current events of these (type, state key) pairs. Pairs without one are left out."""
    types, state_keys = _split(keys)
    return [timeline_row(row) for row in await source.fetch(_CURRENT_KEYS, room_nid, types, state_keys)]


async def get_state_before(source: Source, room_nid: int, ordinal: int, *, members: bool = True) -> list[TimelineRow]:
    """Return the whole state before an ordinal. members: False to leave m.room.member out."""
    return [timeline_row(row) for row in await source.fetch(_AT, room_nid, ordinal, members)]


async def get_members_before(source: Source, room_nid: int, ordinal: int) -> list[TimelineRow]:
    """Return every m.room.member event of the state before an ordinal."""
    return [timeline_row(row) for row in await source.fetch(_MEMBERS_AT, room_nid, ordinal)]


async def get_member_pages(
    source: Source, room_nid: int, ordinal: int, size: int
) -> AsyncGenerator[list[TimelineRow], None]:
    """Yield the m.room.member events of the state before an ordinal, at most `size` at a time."""
    after, found = "", size
    while found == size:
        rows = await source.fetch(_MEMBERS_PAGE, room_nid, ordinal, after, size)
        found = len(rows)
        if rows:
            after = rows[-1]["state_key"]
            yield [timeline_row(row) for row in rows if row["event_nid"] is not None]


async def get_keys_before(
    source: Source, room_nid: int, ordinal: int, keys: Sequence[tuple[str, str]]
) -> list[TimelineRow]:
    """Return the events of these (type, state key) pairs in the state before an ordinal."""
    types, state_keys = _split(keys)
    return [timeline_row(row) for row in await source.fetch(_AT_KEYS, room_nid, ordinal, types, state_keys)]


async def get_key_history(source: Source, room_nid: int, event_type: str, state_key: str) -> list[KeyChange]:
    """Return all values that one key of the state has had, in order."""
    rows = await source.fetch(_HISTORY, room_nid, event_type, state_key)
    return [KeyChange(ordinal, json) for ordinal, json in rows]


async def get_joined_members(source: Source, room_nid: int) -> list[tuple[str, bytes | None]]:
    """Return (user id, PDU of the member event) of all users who are joined now. None: it was redacted."""
    return [tuple(row) for row in await source.fetch(_JOINED, room_nid)]


def _split(keys: Sequence[tuple[str, str]]) -> tuple[list[str], list[str]]:
    return [event_type for event_type, _ in keys], [state_key for _, state_key in keys]
