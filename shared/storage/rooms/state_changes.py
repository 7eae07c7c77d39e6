"""A room's state together with the ordinals from which its keys hold their events.

An event may hold a key from a later ordinal than its own, if state resolution brought it back or accepted a soft-failed
event.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from shared.storage.engine.pool import Source
from shared.storage.events.timeline import EVENT_COLUMNS, EVENT_JOINS, TimelineRow, timeline_row

#: Use the primary key of state_changes.
_MEMBERS_AT = f"""
    SELECT {EVENT_COLUMNS}, 'm.room.member' AS held_type, s.state_key AS held_key, s.ordinal AS since FROM (
        SELECT DISTINCT ON (state_key) room_nid, state_key, event_nid, ordinal FROM state_changes
        WHERE room_nid = $1 AND type = 'm.room.member' AND ordinal < $2 ORDER BY state_key, ordinal DESC
    ) s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
_KEYS_AT = f"""
    SELECT {EVENT_COLUMNS}, s.type AS held_type, s.state_key AS held_key, s.ordinal AS since
    FROM unnest($3::text[], $4::text[]) AS k(type, state_key)
    CROSS JOIN LATERAL (
        SELECT room_nid, type, state_key, event_nid, ordinal FROM state_changes
        WHERE room_nid = $1 AND type = k.type AND state_key = k.state_key AND ordinal < $2
        ORDER BY ordinal DESC LIMIT 1
    ) s JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""
#: Both use state_changes_by_ordinal.
_CHANGES = """
    SELECT ordinal, type, state_key, event_nid, prev_nid FROM state_changes
    WHERE room_nid = $1 AND ordinal >= $2 AND ordinal < $3 ORDER BY ordinal DESC LIMIT $4
"""
_LAST_CHANGES = f"""
    SELECT {EVENT_COLUMNS}, s.type AS held_type, s.state_key AS held_key, s.ordinal AS since FROM (
        SELECT DISTINCT ON (type, state_key) room_nid, type, state_key, event_nid, ordinal FROM state_changes
        WHERE room_nid = $1 AND ordinal >= $2 AND ordinal < $3 ORDER BY type, state_key, ordinal DESC
    ) s LEFT JOIN events e USING (room_nid, event_nid) {EVENT_JOINS}
"""


@dataclass(frozen=True, slots=True)
class StateChange:
    """A change of a key of the state.

    ordinal: of the event at which it changed.
    event_nid: the event that the key holds since. None: none.
    prev_nid: the event that it held before. None: none.
    """

    ordinal: int
    type: str
    state_key: str
    event_nid: int | None
    prev_nid: int | None


@dataclass(frozen=True, slots=True)
class HeldRow:
    """A key of the state and the event that it holds.

    since: the ordinal from which it does. None: not read.
    row: the event. None: the key left the state.
    """

    type: str
    state_key: str
    since: int | None
    row: TimelineRow | None


async def get_members_held(source: Source, room_nid: int, ordinal: int) -> list[HeldRow]:
    """Return the m.room.member events of the state before an ordinal."""
    return [_held(row) for row in await source.fetch(_MEMBERS_AT, room_nid, ordinal)]


async def get_keys_held(source: Source, room_nid: int, ordinal: int, keys: Sequence[tuple[str, str]]) -> list[HeldRow]:
    """Return what these (type, state key) pairs hold in the state before an ordinal. Absent ones are left out."""
    types = [event_type for event_type, _ in keys]
    state_keys = [state_key for _, state_key in keys]
    return [_held(row) for row in await source.fetch(_KEYS_AT, room_nid, ordinal, types, state_keys)]


async def get_changes(source: Source, room_nid: int, start: int, end: int, limit: int) -> list[StateChange]:
    """Return at most `limit` changes between two ordinals (start inclusive, end exclusive), the latest first."""
    rows = await source.fetch(_CHANGES, room_nid, start, end, limit)
    return [StateChange(*row) for row in rows]


async def get_last_changes(source: Source, room_nid: int, start: int, end: int) -> list[HeldRow]:
    """Return the last change of each key that changed between two ordinals (start inclusive, end exclusive)."""
    return [_held(row) for row in await source.fetch(_LAST_CHANGES, room_nid, start, end)]


def _held(record: asyncpg.Record) -> HeldRow:
    row = None if record["event_nid"] is None else timeline_row(record)
    return HeldRow(record["held_type"], record["held_key"], record["since"], row)
