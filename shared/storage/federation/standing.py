"""Our standing in rooms: those whose state we have, and those that other servers have.

A room that is not ours has no create event, no line and no extremities here. Its member events are outliers. What users
see of it is its stripped state.
"""

from dataclasses import dataclass
from enum import IntEnum

from shared.core.identifiers import RoomId
from shared.storage.engine.fenced import FencedWrite, fenced_statement
from shared.storage.engine.pool import Source
from shared.storage.engine.statements import SmallInt, parameters


class Standing(IntEnum):
    """The values of rooms.standing."""

    OURS = 0  # we have its state
    OUTSIDE = 1  # known by an invite or a knock alone
    JOINING = 2  # another server is letting us in
    LEFT = 3  # the last of our users is gone, and the state that we have is old


#: Uses rooms_room_id_key.
_ROOM = """
    SELECT room_nid, room_version, standing, stripped_state FROM rooms WHERE room_id = $1 AND deleted_id IS NULL
"""


@parameters
class AddOutsideRoom:
    room_nid: int
    room_id: RoomId
    room_version: str
    stripped_state: bytes


#: A room that was outside, or that we left, keeps its number. One whose state is ours is left alone.
ADD_OUTSIDE_ROOM = fenced_statement(
    "add_outside_room",
    AddOutsideRoom,
    {
        "room": f"""
            INSERT INTO rooms AS r (room_nid, room_id, room_version, creator, created_ms, standing, stripped_state)
            SELECT :room_nid, :room_id, :room_version, '', (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
                   {Standing.OUTSIDE.value}, :stripped_state
            FROM fence
            ON CONFLICT (room_id) DO UPDATE SET stripped_state = excluded.stripped_state
            WHERE r.standing <> {Standing.OURS.value} AND r.room_version = excluded.room_version
            RETURNING r.room_nid""",
    },
    "(SELECT room_nid FROM room) AS room_nid",
)


@parameters
class ChangeStanding:
    """before: the standing that the room must have."""

    room_nid: int
    before: SmallInt
    now: SmallInt


CHANGE_STANDING = fenced_statement(
    "change_standing",
    ChangeStanding,
    {
        "changed": f"""
            UPDATE rooms SET standing = :now::smallint,
                stripped_state = CASE WHEN :now::smallint = {Standing.OURS.value} THEN NULL ELSE stripped_state END
            FROM fence WHERE room_nid = :room_nid AND standing = :before::smallint RETURNING 1""",
    },
    "(SELECT count(*) FROM changed) AS changed",
)


@dataclass(frozen=True, slots=True)
class RoomStanding:
    """stripped_state: a JSON array, None if there is none."""

    room_nid: int
    room_version: str
    standing: Standing
    stripped_state: bytes | None


async def get_standing(source: Source, room_id: RoomId) -> RoomStanding | None:
    """Return our standing in a room, None if nothing is known of it."""
    row = await source.fetchrow(_ROOM, room_id)
    if row is None:
        return None
    return RoomStanding(row["room_nid"], row["room_version"], Standing(row["standing"]), row["stripped_state"])


async def add_outside_room(
    write: FencedWrite, room_nid: int, room_id: RoomId, room_version: str, stripped_state: bytes
) -> int | None:
    """Note a room that another server has told us of, and return its number: a former one if it has one.

    room_nid: reserved, for a room that is new here.
    Returns None if the room is ours, or known with another version.
    """
    row = await write(
        ADD_OUTSIDE_ROOM,
        AddOutsideRoom(room_nid=room_nid, room_id=room_id, room_version=room_version, stripped_state=stripped_state),
    )
    nid: int | None = row["room_nid"]
    return nid


async def change_standing(write: FencedWrite, room_nid: int, before: Standing, now: Standing) -> bool:
    """Change our standing in a room. Return False if it was another one: then nothing changes."""
    row = await write(CHANGE_STANDING, ChangeStanding(room_nid=room_nid, before=before.value, now=now.value))
    return bool(row["changed"])
