"""Erased users. Readers who had not seen their events before see them redacted.

Spec: client-server API, POST /account/deactivate, `erase`.
"""

from collections.abc import Collection

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database, Source

#: Uses the primary key.
_GET = "SELECT user_id, erased_ms FROM erased_users WHERE user_id = ANY($1::text[])"
#: Uses erased_users_by_time.
_SINCE = "SELECT user_id, erased_ms FROM erased_users WHERE erased_ms >= $1"
#: Uses the primary keys. Every sender of an event of a room is, or was, a member.
_OF_ROOM = """
    SELECT u.user_id, u.erased_ms FROM erased_users u
    WHERE EXISTS (SELECT FROM memberships m WHERE m.room_nid = $1 AND m.user_id = u.user_id)
"""
#: The first erasure counts: readers who could see the events before it keep them.
_SET = "INSERT INTO erased_users (user_id, erased_ms) VALUES ($1, $2) ON CONFLICT (user_id) DO NOTHING"


async def get_erased_users(source: Source, user_ids: Collection[UserId]) -> dict[UserId, int]:
    """Return user id -> time of erasure (ms since the epoch), of those of the given users who are erased."""
    if not user_ids:
        return {}
    return dict(map(tuple, await source.fetch(_GET, list(user_ids))))


async def get_erased_since(source: Source, since_ms: int) -> dict[UserId, int]:
    """Return user id -> time of erasure, of users who were erased at or after `since_ms`."""
    return dict(map(tuple, await source.fetch(_SINCE, since_ms)))


async def get_erased_of_room(source: Source, room_nid: int) -> dict[UserId, int]:
    """Return user id -> time of erasure, of erased users who are or were in the room."""
    return dict(map(tuple, await source.fetch(_OF_ROOM, room_nid)))


async def set_user_erased(database: Database, user_id: UserId, erased_ms: int) -> None:
    """Note that the user was erased at that time (ms since the epoch). Again is no matter."""
    await database.execute(_SET, user_id, erased_ms)
