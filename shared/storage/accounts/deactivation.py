"""Closed accounts: marked at once, cleared up afterwards. Spec: client-server API, POST /account/deactivate."""

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import parameters


@parameters
class CloseAccount:
    """erase: True to erase what the user sent. Users who join a room after `now_ms` see redacted copies."""

    user_id: UserId
    erase: bool
    now_ms: int


#: Deletes the password at once: logins fail from now on. Uses the primary keys.
CLOSE_ACCOUNT = fenced_statement(
    "close_account",
    CloseAccount,
    {
        "closed": """
            UPDATE users SET deactivated = true, password_hash = NULL FROM fence WHERE user_id = :user_id RETURNING 1
        """,
        "to_clear": """
            INSERT INTO deactivations (user_id, erase, look_at)
            SELECT :user_id, :erase, clock_timestamp() FROM fence, closed
            ON CONFLICT (user_id) DO UPDATE SET erase = deactivations.erase OR excluded.erase
        """,
        "erased": """
            INSERT INTO erased_users (user_id, erased_ms) SELECT :user_id, :now_ms FROM fence, closed WHERE :erase
            ON CONFLICT (user_id) DO NOTHING
        """,
    },
    "(SELECT count(*) FROM closed) AS closed",
)
#: $1 user. Everything that others could see of the account. Uses the primary keys.
_CLEAR = (
    "DELETE FROM profiles WHERE user_id = $1",
    "DELETE FROM presence WHERE user_id = $1",
    "DELETE FROM settings_to_copy WHERE user_id = $1",
    "DELETE FROM profile_changes WHERE user_id = $1",
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
