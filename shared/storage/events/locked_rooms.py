"""Rooms of a batch with rows that other transactions have locked, found without waiting for a lock.

The query tries the lock itself, as weak as that of an UPDATE that changes no key (FOR NO KEY UPDATE), with SKIP LOCKED:
a row that exists and is not returned is locked by another transaction. The statement commits by itself, so its own
locks end with it. A lock on a row that does not exist yet (a key that an open transaction inserts) cannot be seen.
"""

from collections.abc import Sequence
from typing import NamedTuple

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Connection, Database
from shared.storage.engine.statements import parameters, statement
from shared.storage.events.batch import EventBatch


class _Key(NamedTuple):
    room_nid: int
    type: str
    state_key: str


class _Member(NamedTuple):
    room_nid: int
    user_id: UserId


class _Event(NamedTuple):
    room_nid: int
    event_nid: int


@parameters
class _Rows:
    """Rows that a statement would change."""

    rooms: list[int]
    keys: Sequence[_Key]
    users: Sequence[_Member]
    events: Sequence[_Event]


#: Each part uses its table's primary key.
_LOCKED_ROOMS = statement(
    _Rows,
    """
    WITH free_rooms AS MATERIALIZED (
           SELECT room_nid FROM forward_extremities WHERE room_nid = ANY(:rooms::bigint[])
           FOR NO KEY UPDATE SKIP LOCKED),
         keys AS (SELECT * FROM :keys AS k(:keys.columns)),
         free_state AS MATERIALIZED (
           SELECT s.room_nid, s.type, s.state_key FROM keys JOIN current_state s USING (room_nid, type, state_key)
           FOR NO KEY UPDATE OF s SKIP LOCKED),
         users AS (SELECT * FROM :users AS u(:users.columns)),
         free_members AS MATERIALIZED (
           SELECT m.room_nid, m.user_id FROM users JOIN memberships m USING (room_nid, user_id)
           FOR NO KEY UPDATE OF m SKIP LOCKED),
         nids AS (SELECT * FROM :events AS n(:events.columns)),
         free_events AS MATERIALIZED (
           SELECT e.room_nid, e.event_nid FROM nids JOIN events e USING (room_nid, event_nid)
           FOR NO KEY UPDATE OF e SKIP LOCKED)
    SELECT room_nid FROM forward_extremities
      WHERE room_nid = ANY(:rooms::bigint[]) AND room_nid NOT IN (SELECT room_nid FROM free_rooms)
    UNION SELECT room_nid FROM keys JOIN current_state s USING (room_nid, type, state_key)
      WHERE (room_nid, type, state_key) NOT IN (SELECT room_nid, type, state_key FROM free_state)
    UNION SELECT room_nid FROM users JOIN memberships m USING (room_nid, user_id)
      WHERE (room_nid, user_id) NOT IN (SELECT room_nid, user_id FROM free_members)
    UNION SELECT room_nid FROM nids JOIN events e USING (room_nid, event_nid)
      WHERE (room_nid, event_nid) NOT IN (SELECT room_nid, event_nid FROM free_events)
    """,
)
#: For a connection that one owner keeps: the setting stays with the connection.
_SETTING_LIMIT_S = 5.0
_LIMIT_LOCK_WAIT = "SELECT set_config('lock_timeout', $1, false)"


async def find_locked_rooms(database: Database, batches: Sequence[EventBatch]) -> set[int]:
    """Return the rooms of the batches with a locked row that storing them would change.

    Raises Unavailable if a whole table is locked, or the database is away.
    """
    rooms: list[int] = []
    keys: list[_Key] = []
    users: list[_Member] = []
    events: list[_Event] = []
    for batch in batches:
        rooms.extend(batch.extremities)
        room_of = {event.event_nid: event.room_nid for event in batch.events}
        keys.extend(_Key(room_of[c.at_nid], c.type, c.state_key) for c in batch.changes)
        users.extend(_Member(room_of[m.at_nid], m.user_id) for m in batch.memberships)
        events.extend(_Event(room_nid, nid) for room_nid, nid, _ in batch.redacted)
        events.extend(_Event(event.room_nid, event.event_nid) for event in batch.events)  # outliers that get a place
    record = _Rows(rooms=rooms, keys=keys, users=users, events=events)
    return {row["room_nid"] for row in await database.fetch(*_LOCKED_ROOMS.bind(record))}


async def limit_lock_wait(conn: Connection, limit_ms: int) -> None:
    """Limit the lock waits of all statements of this connection. Not behind a pooler, which shares connections."""
    await conn.execute(_LIMIT_LOCK_WAIT, f"{limit_ms}ms", timeout=_SETTING_LIMIT_S)
