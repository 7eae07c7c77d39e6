"""Which rooms of a batch have rows that somebody else holds locked: asked without waiting for anybody.

Looking is the lock itself, as weak as that of an UPDATE which changes no key (FOR NO KEY UPDATE), with SKIP LOCKED:
a row that exists and is not handed out is another's. The statement commits by itself, so its own locks are gone with
its answer. What is locked and not a row that exists (a key that an open transaction is inserting) cannot be seen so.
"""

from collections.abc import Sequence
from typing import Any

from shared.storage.engine.pool import Connection, Database
from shared.storage.events.batch import EventBatch

#: $1: rooms; $2 to $4: keys of their state; $5, $6: members; $7, $8: events. Each part uses its table's primary key.
_LOCKED_ROOMS = """
    WITH free_rooms AS MATERIALIZED (
           SELECT room_nid FROM forward_extremities WHERE room_nid = ANY($1::bigint[])
           FOR NO KEY UPDATE SKIP LOCKED),
         keys AS (SELECT * FROM unnest($2::bigint[], $3::text[], $4::text[]) AS k(room_nid, type, state_key)),
         free_state AS MATERIALIZED (
           SELECT s.room_nid, s.type, s.state_key FROM keys JOIN current_state s USING (room_nid, type, state_key)
           FOR NO KEY UPDATE OF s SKIP LOCKED),
         users AS (SELECT * FROM unnest($5::bigint[], $6::text[]) AS u(room_nid, user_id)),
         free_members AS MATERIALIZED (
           SELECT m.room_nid, m.user_id FROM users JOIN memberships m USING (room_nid, user_id)
           FOR NO KEY UPDATE OF m SKIP LOCKED),
         nids AS (SELECT * FROM unnest($7::bigint[], $8::bigint[]) AS n(room_nid, event_nid)),
         free_events AS MATERIALIZED (
           SELECT e.room_nid, e.event_nid FROM nids JOIN events e USING (room_nid, event_nid)
           FOR NO KEY UPDATE OF e SKIP LOCKED)
    SELECT room_nid FROM forward_extremities
      WHERE room_nid = ANY($1::bigint[]) AND room_nid NOT IN (SELECT room_nid FROM free_rooms)
    UNION SELECT room_nid FROM keys JOIN current_state s USING (room_nid, type, state_key)
      WHERE (room_nid, type, state_key) NOT IN (SELECT room_nid, type, state_key FROM free_state)
    UNION SELECT room_nid FROM users JOIN memberships m USING (room_nid, user_id)
      WHERE (room_nid, user_id) NOT IN (SELECT room_nid, user_id FROM free_members)
    UNION SELECT room_nid FROM nids JOIN events e USING (room_nid, event_nid)
      WHERE (room_nid, event_nid) NOT IN (SELECT room_nid, event_nid FROM free_events)
"""
#: For a connection that one owner keeps for itself: the setting stays with it.
_SETTING_LIMIT_S = 5.0
_LIMIT_LOCK_WAIT = "SELECT set_config('lock_timeout', $1, false)"


async def find_locked_rooms(database: Database, batches: Sequence[EventBatch]) -> set[int]:
    """Return the rooms of the batches of which a row that storing them would change is locked just now.

    Raises Unavailable when that cannot be asked: a whole table is locked, or the database is away.
    """
    rooms: list[int] = []
    keys: list[tuple[int, str, str]] = []
    users: list[tuple[int, str]] = []
    nids: list[tuple[int, int]] = []
    for batch in batches:
        rooms.extend(batch.extremities)
        room_of = {event.event_nid: event.room_nid for event in batch.events}
        keys.extend((room_of[c.at_nid], c.type, c.state_key) for c in batch.changes)
        users.extend((room_of[m.at_nid], m.user_id) for m in batch.memberships)
        nids.extend((room_nid, nid) for room_nid, nid, _ in batch.redacted)
        nids.extend((event.room_nid, event.event_nid) for event in batch.events)  # outliers that become more
    found = await database.fetch(_LOCKED_ROOMS, rooms, *_columns(keys, 3), *_columns(users, 2), *_columns(nids, 2))
    return {row["room_nid"] for row in found}


async def limit_lock_wait(conn: Connection, limit_ms: int) -> None:
    """Let no statement of this connection wait longer for a lock. Not behind a pooler, which shares connections."""
    await conn.execute(_LIMIT_LOCK_WAIT, f"{limit_ms}ms", timeout=_SETTING_LIMIT_S)


def _columns(rows: Sequence[Sequence[Any]], count: int) -> list[list[Any]]:
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(count)]
