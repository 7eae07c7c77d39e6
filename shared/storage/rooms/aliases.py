"""Room aliases of this server, and the directory of published rooms.

`shared.storage.events.commit.commit_events` stores an alias that is created with its room.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Database

# Uses the primary keys of room_aliases and rooms.
_GET = """
    SELECT r.room_nid, r.room_id, a.creator
    FROM room_aliases a JOIN rooms r USING (room_nid) WHERE a.alias = $1
"""
_CREATE = """
    INSERT INTO room_aliases (alias, room_nid, creator, created_ms) VALUES ($1, $2, $3, $4)
    ON CONFLICT (alias) DO NOTHING
"""
#: Uses room_aliases_by_creator, for at most $2 rows.
_HAS_ALIASES = """
    SELECT count(*) >= $2 FROM (SELECT FROM room_aliases WHERE creator = $1 LIMIT $2) AS few
"""
# room_nid: an alias that was deleted and created again for another room meanwhile stays.
_DELETE = "DELETE FROM room_aliases WHERE alias = $1 AND room_nid = $2"
# Uses room_aliases_by_room.
_LIST = "SELECT alias FROM room_aliases WHERE room_nid = $1 ORDER BY alias LIMIT 1000"
# Uses rooms_room_id_key and the primary key of memberships.
_MEMBERSHIP = """
    SELECT r.room_nid, r.room_version, m.membership FROM rooms r
    LEFT JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $2 WHERE r.room_id = $1
"""
# Uses the primary keys of current_state and events.
_STATE = """
    SELECT s.type, e.json FROM current_state s JOIN events e USING (room_nid, event_nid)
    WHERE s.room_nid = $1 AND s.type = ANY ($2::text[]) AND s.state_key = ''
      AND (e.redacted_by IS NULL OR s.type <> 'm.room.canonical_alias')
"""
# Uses the primary key of memberships. Server names of joined members of other servers; a server name may hold colons.
_SERVERS = """
    SELECT DISTINCT substr(user_id, strpos(user_id, ':') + 1) AS server FROM memberships
    WHERE room_nid = $1 AND membership = 'join' AND NOT is_local LIMIT $2
"""
# Uses rooms_room_id_key.
_IS_PUBLISHED = "SELECT is_public FROM rooms WHERE room_id = $1 AND deleted_id IS NULL"
# Uses rooms_room_id_key.
_PUBLISHED_AMONG = "SELECT room_id FROM rooms WHERE room_id = ANY($1::text[]) AND is_public AND deleted_id IS NULL"
# Uses the primary key of rooms.
_PUBLISH = "UPDATE rooms SET is_public = $2 WHERE room_nid = $1 AND is_public <> $2"
# Uses memberships_by_user.
_JOINED = """
    SELECT r.room_id FROM memberships m JOIN rooms r USING (room_nid)
    WHERE m.user_id = $1 AND m.membership = 'join' ORDER BY r.room_nid
"""
#: Uses the primary key.
_ROOM_OF = "SELECT r.room_id FROM room_aliases a JOIN rooms r USING (room_nid) WHERE a.alias = $1"
#: Uses the primary key.
_POINTING_TO = "SELECT alias FROM room_aliases WHERE alias = ANY($2::text[]) AND room_nid = $1"


@dataclass(frozen=True, slots=True)
class Alias:
    """An alias. creator: the user who created it."""

    room_nid: int
    room_id: RoomId
    creator: UserId


@dataclass(frozen=True, slots=True)
class UserInRoom:
    """A room and a user's membership in it. membership: None if the user never had one."""

    room_nid: int
    room_version: str
    membership: str | None


async def get_alias(database: Database, alias: str) -> Alias | None:
    """Return an alias of this server."""
    row = await database.fetchrow(_GET, alias)
    return Alias(**row) if row is not None else None


async def create_alias(database: Database, alias: str, room_nid: int, creator: UserId, now_ms: int) -> bool:
    """Create an alias. Return False if it exists already."""
    return (await database.execute(_CREATE, alias, room_nid, creator, now_ms)).endswith(" 1")


async def has_aliases(database: Database, creator: UserId, number: int) -> bool:
    """Return True if a user created this many aliases, or more, that still exist."""
    return bool(await database.fetchval(_HAS_ALIASES, creator, number))


async def delete_alias(database: Database, alias: str, room_nid: int) -> None:
    """Delete an alias, if it still points to this room."""
    await database.execute(_DELETE, alias, room_nid)


async def list_aliases(database: Database, room_nid: int) -> list[str]:
    """Return at most 1,000 aliases that point to the room."""
    return [row["alias"] for row in await database.fetch(_LIST, room_nid)]


async def get_user_in_room(database: Database, room_id: RoomId, user_id: UserId) -> UserInRoom | None:
    """Return the room and the user's membership in it, None if the room is unknown."""
    row = await database.fetchrow(_MEMBERSHIP, room_id, user_id)
    return UserInRoom(**row) if row is not None else None


async def is_published(database: Database, room_id: RoomId) -> bool | None:
    """Return True if the room is in the directory, None if the room is unknown."""
    published: bool | None = await database.fetchval(_IS_PUBLISHED, room_id)
    return published


async def get_published(database: Database, room_ids: list[RoomId]) -> set[str]:
    """Return those of the rooms that are in the directory."""
    return {row[0] for row in await database.fetch(_PUBLISHED_AMONG, room_ids)}


async def set_published(database: Database, room_nid: int, published: bool) -> None:
    """Put the room into the directory, or remove it."""
    await database.execute(_PUBLISH, room_nid, published)


async def get_state_with_empty_key(database: Database, room_nid: int, types: tuple[str, ...]) -> Mapping[str, bytes]:
    """Return type -> PDU of the room's current state events of these types with state key "".

    A redacted m.room.canonical_alias has no aliases, and is left out.
    """
    return {row["type"]: row["json"] for row in await database.fetch(_STATE, room_nid, list(types))}


async def list_other_servers(database: Database, room_nid: int, limit: int) -> list[str]:
    """Return at most `limit` other servers with a joined member."""
    return [row["server"] for row in await database.fetch(_SERVERS, room_nid, limit)]


async def list_joined_rooms(database: Database, user_id: UserId) -> list[RoomId]:
    """Return the rooms that the user is joined to."""
    return [row["room_id"] for row in await database.fetch(_JOINED, user_id)]


async def get_room_of_alias(database: Database, alias: str) -> RoomId | None:
    """Return the id of the room that the alias points to."""
    room_id: RoomId | None = await database.fetchval(_ROOM_OF, alias)
    return room_id


async def get_aliases_pointing_to(database: Database, room_nid: int, aliases: Collection[str]) -> set[str]:
    """Return those of the aliases that point to this room."""
    return {row[0] for row in await database.fetch(_POINTING_TO, room_nid, list(aliases))}
