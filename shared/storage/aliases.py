"""Room aliases of this server. An alias made with its room is stored by `events.commit_events`."""

from collections.abc import Collection

from shared.storage.pool import Database

#: Uses the primary key.
_ROOM_OF = "SELECT r.room_id FROM room_aliases a JOIN rooms r USING (room_nid) WHERE a.alias = $1"
#: Uses the primary key.
_POINTING_TO = "SELECT alias FROM room_aliases WHERE alias = ANY($2::text[]) AND room_nid = $1"


async def get_room_of_alias(database: Database, alias: str) -> str | None:
    """Return the id of the room that the alias points to."""
    room_id: str | None = await database.fetchval(_ROOM_OF, alias)
    return room_id


async def get_aliases_pointing_to(database: Database, room_nid: int, aliases: Collection[str]) -> set[str]:
    """Return those of the aliases that point to this room."""
    return {row[0] for row in await database.fetch(_POINTING_TO, room_nid, list(aliases))}
