"""Closed accounts, which are cleared up after `CLOSE_ACCOUNT` (`session_statements.py`).

Spec: client-server API, POST /account/deactivate.
"""

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Database

#: $1 user. Everything that others could see of the account. Uses the primary keys.
_CLEAR = (
    "DELETE FROM profiles WHERE user_id = $1",
    "DELETE FROM presence WHERE user_id = $1",
    "DELETE FROM settings_to_copy WHERE user_id = $1",
    "DELETE FROM profile_changes WHERE user_id = $1",
    "DELETE FROM login_addresses WHERE user_id = $1",
)
#: $1 user. Everything that is the user's alone, if they asked for erasure. Uses the primary keys.
_ERASE = tuple(
    f"DELETE FROM {table} WHERE user_id = $1"
    for table in ("account_data", "filters", "push_rules", "thread_subscriptions", "presence")
)
#: Uses memberships_by_user.
_ROOMS = """
    SELECT r.room_id FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = $1 AND m.membership IN ('join', 'invite', 'knock') ORDER BY r.room_nid LIMIT $2
"""
_FINISHED = "DELETE FROM deactivations WHERE user_id = $1"


async def clear_account(database: Database, user_id: UserId, erase: bool) -> None:
    """Delete the profile of a closed account. With `erase`, delete the user's own data too."""
    for statement in _CLEAR + (_ERASE if erase else ()):
        await database.execute(statement, user_id)


async def get_rooms_to_leave(database: Database, user_id: UserId, limit: int) -> list[RoomId]:
    """Return rooms that the user has joined, is invited to, or has knocked on."""
    return [row["room_id"] for row in await database.fetch(_ROOMS, user_id, limit)]


async def finish_deactivation(database: Database, user_id: UserId) -> None:
    """Note that the account is cleared up."""
    await database.execute(_FINISHED, user_id)
