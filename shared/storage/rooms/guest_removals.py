"""Rooms that guests may have to leave. A row is written before their access ends and deleted when they have left."""

from shared.core.identifiers import RoomId
from shared.storage.engine.pool import Database

#: All use the primary key. number: grows with each change, so that none is missed.
_EXPECT = """
    INSERT INTO guest_removals (of_room_id, look_at) VALUES ($1, clock_timestamp() + interval '5 seconds')
    ON CONFLICT (of_room_id) DO UPDATE
    SET look_at = excluded.look_at, looks = 0, number = guest_removals.number + 1
"""
_GET = "SELECT number FROM guest_removals WHERE of_room_id = $1"
_DONE = "DELETE FROM guest_removals WHERE of_room_id = $1 AND number = $2"


async def expect_guest_removal(database: Database, room_id: RoomId) -> None:
    """Note that guests may have to leave this room soon."""
    await database.execute(_EXPECT, room_id)


async def get_guest_removal(database: Database, room_id: RoomId) -> int | None:
    """Return the number of the expected removal, None if there is none."""
    number: int | None = await database.fetchval(_GET, room_id)
    return number


async def finish_guest_removal(database: Database, room_id: RoomId, number: int) -> None:
    """Note that all guests have left, or may stay, unless another removal was expected meanwhile."""
    await database.execute(_DONE, room_id, number)
