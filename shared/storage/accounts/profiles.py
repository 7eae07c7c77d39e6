"""Profiles of local users: fields with JSON values. Spec: client-server API, "Profiles"."""

from collections.abc import Mapping
from typing import Any

import orjson

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database

# All use the primary keys of profiles and users.
_GET = """
    SELECT u.user_id, p.field, p.value FROM users u LEFT JOIN profiles p USING (user_id)
    WHERE u.user_id = $1 AND NOT u.deactivated
"""
_LOCK = "SELECT 1 FROM users WHERE user_id = $1 FOR UPDATE"
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


async def get_profile(database: Database, user_id: UserId) -> Mapping[str, Any] | None:
    """Return every field that is set, None if there is no such local user."""
    rows = await database.fetch(_GET, user_id)
    if not rows:
        return None
    return {row["field"]: orjson.loads(row["value"]) for row in rows if row["field"] is not None}


async def set_profile_field(database: Database, user_id: UserId, field: str, value: bytes, limit_bytes: int) -> bool:
    """Set a field to a JSON value. Return False if the whole profile would exceed `limit_bytes`."""
    room = limit_bytes - len(field.encode()) - len(value) - 8
    # Two fields that are set at once must not exceed the limit together. The second statement sees the field of the
    # first one only if it begins once it holds the lock.
    async with database.connection() as conn, conn.transaction():
        await conn.execute(_LOCK, user_id)
        stored: bool = await conn.fetchval(_SET, user_id, field, value, room)
    return stored


async def delete_profile_field(database: Database, user_id: UserId, field: str) -> None:
    await database.execute(_DELETE, user_id, field)
