"""Who is in which room, and what is known of these people where a membership is about to change."""

from collections.abc import Collection, Sequence

import orjson

from shared.storage.escape import escape
from shared.storage.events import FencedWrite
from shared.storage.fenced import fenced_statement
from shared.storage.pool import Database
from shared.storage.read_account_data import blocks_invites

#: $2 room, $3 user. Nothing of it is in a stream: the user's own clients drop the room when they ask.
FORGET_ROOM = fenced_statement(
    "forget_room",
    {
        "forgotten": """
            UPDATE memberships SET forgotten = true FROM fence
            WHERE room_nid = $2 AND user_id = $3 AND membership IN ('leave', 'ban')
            RETURNING 1
        """
    },
    "(SELECT count(*) FROM forgotten) AS forgotten",
)
#: Uses rooms_room_id_key and the primary key of memberships.
_JOINED_ANY = """
    SELECT EXISTS (
        SELECT FROM rooms r JOIN memberships m USING (room_nid)
        WHERE r.room_id = ANY($2::text[]) AND m.user_id = $1 AND m.membership = 'join')
"""
#: Uses the primary key of profiles.
_PROFILES = """
    SELECT user_id, field, value FROM profiles
    WHERE user_id = ANY($1::text[]) AND field IN ('displayname', 'avatar_url')
"""
#: Uses the primary key of account_data.
_INVITE_PERMISSIONS = """
    SELECT user_id, json FROM account_data
    WHERE user_id = ANY($1::text[]) AND room_id = '' AND type = 'm.invite_permission_config' AND json IS NOT NULL
"""
#: Uses the primary keys of memberships and users.
_JOINED_GUESTS = """
    SELECT m.user_id FROM memberships m JOIN users u USING (user_id)
    WHERE m.room_nid = $1 AND m.is_local AND m.membership = 'join' AND u.kind = 'guest'
"""


async def forget_room(write: FencedWrite, room_nid: int, user_id: str) -> bool:
    """Mark the room as forgotten by the user; False when he has not left it. Raises Fenced."""
    row = await write(FORGET_ROOM, room_nid, escape(user_id))
    return bool(row["forgotten"])


async def is_joined_to_any(database: Database, user_id: str, room_ids: Sequence[str]) -> bool:
    """Return whether the user is joined to at least one of the rooms."""
    known = [room_id for room_id in room_ids if "\x00" not in room_id]
    return bool(await database.fetchval(_JOINED_ANY, escape(user_id), known))


async def get_member_profiles(database: Database, user_ids: Collection[str]) -> dict[str, dict[str, str]]:
    """Return `displayname` and `avatar_url` of the users, as far as they are set: what member events show."""
    profiles: dict[str, dict[str, str]] = {}
    for user_id, field, value in await database.fetch(_PROFILES, list(user_ids)):
        text = orjson.loads(value)
        if isinstance(text, str) and text:
            profiles.setdefault(user_id, {})[field] = text
    return profiles


async def get_users_blocking_invites(database: Database, user_ids: Collection[str]) -> set[str]:
    """Return those who want no invites. Spec: client-server API, "Invite permission"."""
    rows = await database.fetch(_INVITE_PERMISSIONS, list(user_ids))
    return {user_id for user_id, json in rows if blocks_invites(json)}


async def get_joined_guests(database: Database, room_nid: int) -> list[str]:
    """Return the guests of this server who are in the room."""
    return [row[0] for row in await database.fetch(_JOINED_GUESTS, room_nid)]
