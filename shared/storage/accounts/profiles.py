"""Profiles of local users: fields with JSON values. Spec: client-server API, "Profiles".

Member events repeat the display name and the picture. A change of these leaves a row in `profile_changes` until it is
in all of the user's rooms.
"""

from collections.abc import Mapping
from typing import Any

import orjson

from shared.core.errors import user_deactivated
from shared.core.identifiers import UserId
from shared.storage.engine.pool import Connection, Database

# All use the primary keys of profiles and users.
_GET = """
    SELECT u.user_id, p.field, p.value FROM users u LEFT JOIN profiles p USING (user_id)
    WHERE u.user_id = $1 AND NOT u.deactivated
"""
_LOCK = "SELECT 1 FROM users WHERE user_id = $1 AND NOT deactivated FOR UPDATE"
# $4: bytes that the names and values of all other fields may have.
_SET = """
    WITH others AS (SELECT coalesce(sum(octet_length(field) + octet_length(value) + 6), 0) AS bytes
                    FROM profiles WHERE user_id = $1 AND field <> $2),
    stored AS (INSERT INTO profiles (user_id, field, value)
               SELECT $1, $2, $3 FROM others WHERE others.bytes <= $4
               ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value RETURNING 1)
    SELECT EXISTS (SELECT 1 FROM stored)
"""
_DELETE = "DELETE FROM profiles WHERE user_id = $1 AND field = $2"
#: The owner has this long for the user's rooms before a background worker looks.
_OWNER_HAS_S = 10
#: Uses the primary key of profile_changes.
_NOTE_CHANGE = f"""
    INSERT INTO profile_changes AS c (user_id, look_at)
    VALUES ($1, clock_timestamp() + interval '{_OWNER_HAS_S} seconds')
    ON CONFLICT (user_id) DO UPDATE
        SET number = c.number + 1, created_at = clock_timestamp(), look_at = excluded.look_at, looks = 0
"""
_GET_CHANGE = "SELECT number FROM profile_changes WHERE user_id = $1"
_END_CHANGE = "DELETE FROM profile_changes WHERE user_id = $1 AND number = $2"
#: Fields that member events repeat.
IN_MEMBER_EVENTS = ("displayname", "avatar_url")


async def get_profile(database: Database, user_id: UserId) -> Mapping[str, Any] | None:
    """Return every field that is set, None if there is no such local user."""
    rows = await database.fetch(_GET, user_id)
    if not rows:
        return None
    return {row["field"]: orjson.loads(row["value"]) for row in rows if row["field"] is not None}


async def set_profile_field(database: Database, user_id: UserId, field: str, value: bytes, limit_bytes: int) -> bool:
    """Set a field to a JSON value. Return False if the whole profile would exceed `limit_bytes`.

    Raises MatrixError M_USER_DEACTIVATED if the account was closed since the request began.
    """
    room = limit_bytes - len(field.encode()) - len(value) - 8
    # Two fields that are set at once must not exceed the limit together. The second statement sees the field of the
    # first one only if it begins once it holds the lock.
    async with database.connection() as conn, conn.transaction():
        await _lock(conn, user_id)
        stored: bool = await conn.fetchval(_SET, user_id, field, value, room)
        if stored and field in IN_MEMBER_EVENTS:
            await conn.execute(_NOTE_CHANGE, user_id)
    return stored


async def delete_profile_field(database: Database, user_id: UserId, field: str) -> None:
    """Delete a field. Raises MatrixError M_USER_DEACTIVATED if the account was closed since the request began."""
    async with database.connection() as conn, conn.transaction():
        await _lock(conn, user_id)
        await conn.execute(_DELETE, user_id, field)
        if field in IN_MEMBER_EVENTS:
            await conn.execute(_NOTE_CHANGE, user_id)


async def _lock(conn: Connection, user_id: UserId) -> None:
    """Lock an open account: what a closed one left behind is deleted once."""
    if await conn.fetchval(_LOCK, user_id) is None:
        raise user_deactivated()


async def note_profile_change(database: Database, user_id: UserId) -> None:
    """Let a background worker compare the user's member events with their profile."""
    await database.execute(_NOTE_CHANGE, user_id)


async def get_profile_change(database: Database, user_id: UserId) -> int | None:
    """Return the number of the change that is being brought into the user's rooms, or None."""
    number: int | None = await database.fetchval(_GET_CHANGE, user_id)
    return number


async def end_profile_change(database: Database, user_id: UserId, number: int) -> None:
    """Note that all rooms have the change, unless another one has come meanwhile."""
    await database.execute(_END_CHANGE, user_id, number)
