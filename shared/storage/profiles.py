"""Profiles of local users: fields with JSON values. Spec: client-server API, "Profiles"."""

from collections.abc import Mapping
from typing import Any

import orjson

from shared.storage.pool import Database

# All use the primary key of profiles; users are looked up by theirs.
_GET = """
    SELECT u.user_id, p.field, p.value FROM users u LEFT JOIN profiles p USING (user_id)
    WHERE u.user_id = $1 AND NOT u.deactivated
"""
# The row of the user is locked so that two fields set at once cannot together exceed the limit. $4: bytes of all other
# fields' names and values that may be there.
_SET = """
    WITH holder AS (SELECT user_id FROM users WHERE user_id = $1 FOR UPDATE),
    others AS (SELECT coalesce(sum(octet_length(field) + octet_length(value) + 6), 0) AS bytes
               FROM profiles WHERE user_id = $1 AND field <> $2),
    stored AS (INSERT INTO profiles (user_id, field, value)
               SELECT user_id, $2, $3 FROM holder, others WHERE others.bytes <= $4
               ON CONFLICT (user_id, field) DO UPDATE SET value = excluded.value RETURNING 1)
    SELECT EXISTS (SELECT 1 FROM stored)
"""
_DELETE = "DELETE FROM profiles WHERE user_id = $1 AND field = $2"


async def get_profile(database: Database, user_id: str) -> Mapping[str, Any] | None:
    """Return every field that is set; None when there is no such local user."""
    rows = await database.fetch(_GET, user_id)
    if not rows:
        return None
    return {row["field"]: orjson.loads(row["value"]) for row in rows if row["field"] is not None}


async def set_profile_field(
    database: Database, user_id: str, field: str, value: bytes, limit_bytes: int
) -> bool:
    """Set a field. value: JSON. Return False when the whole profile would exceed `limit_bytes`."""
    room = limit_bytes - len(field.encode()) - len(value) - 8
    stored: bool = await database.fetchval(_SET, user_id, field, value, room)
    return stored


async def delete_profile_field(database: Database, user_id: str, field: str) -> None:
    await database.execute(_DELETE, user_id, field)
