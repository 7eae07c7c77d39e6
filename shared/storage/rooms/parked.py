"""Parked rooms: their state cannot be resolved within the limits, and an operator decides when it is tried again."""

from dataclasses import dataclass

from shared.core.identifiers import RoomId
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import parameters

_REASON = "SELECT parked_reason FROM rooms WHERE room_nid = $1"
#: Uses rooms_parked.
_PARKED = """
    SELECT room_id, room_nid, parked_ms, parked_reason FROM rooms
    WHERE parked_ms IS NOT NULL ORDER BY parked_ms LIMIT $1
"""
#: Uses rooms_parked.
_COUNT = "SELECT count(*) FROM rooms WHERE parked_ms IS NOT NULL"


@parameters
class ParkRoom:
    room_nid: int
    reason: str


PARK_ROOM = fenced_statement(
    "park_room",
    ParkRoom,
    {
        "parked": """
            UPDATE rooms SET parked_ms = (extract(epoch FROM clock_timestamp()) * 1000)::bigint, parked_reason = :reason
            FROM fence WHERE room_nid = :room_nid AND parked_ms IS NULL""",
    },
)


@parameters
class ReleaseRoom:
    room_id: RoomId


RELEASE_ROOM = fenced_statement(
    "release_room",
    ReleaseRoom,
    {
        "released": """
            UPDATE rooms SET parked_ms = NULL, parked_reason = NULL
            FROM fence WHERE room_id = :room_id AND parked_ms IS NOT NULL RETURNING room_nid""",
    },
    "(SELECT count(*) FROM released) AS released",
)


@dataclass(frozen=True, slots=True)
class ParkedRoom:
    """parked_ms: when it was parked."""

    room_id: RoomId
    room_nid: int
    parked_ms: int
    parked_reason: str


async def park_room(write: FencedWrite, room_nid: int, reason: str) -> None:
    """Park a room, unless it is parked."""
    await write(PARK_ROOM, ParkRoom(room_nid=room_nid, reason=reason))


async def release_room(write: FencedWrite, room_id: RoomId) -> bool:
    """Let the state of a room be resolved again. Return False if the room is not parked."""
    row = await write(RELEASE_ROOM, ReleaseRoom(room_id=room_id))
    return bool(row["released"])


async def get_parked_reason(source: Source, room_nid: int) -> str | None:
    """Return why a room is parked, None if it is not."""
    reason: str | None = await source.fetchval(_REASON, room_nid)
    return reason


async def get_parked_rooms(source: Source, limit: int) -> list[ParkedRoom]:
    """Return the rooms that have been parked longest."""
    return [ParkedRoom(*row) for row in await source.fetch(_PARKED, limit)]


async def count_parked_rooms(source: Source) -> int:
    count: int = await source.fetchval(_COUNT)
    return count
