"""Members of other servers in a room of ours, without those servers."""

from load.harness.fleet import Target
from load.harness.room_owner import RoomOwner, read_room
from shared.core.identifiers import RoomId, UserId

_BATCH = 200
_SERVERS = 50


async def join_remote_members(target: Target, room_id: RoomId, count: int) -> None:
    """Let users of other servers join a public room: their joins go to the room's owner."""
    owner = RoomOwner(target, room_id)
    room = await read_room(target.status()["database"], room_id)
    for first in range(0, count, _BATCH):
        events = []
        for number in range(first, min(count, first + _BATCH)):
            user_id = UserId(f"@remote{number}:b{number % _SERVERS}.example")
            content = {"membership": "join", "displayname": f"Remote {number}"}
            events.append(room.make(user_id, "m.room.member", content, user_id, len(room.line) - 1))
            room.append(events[-1])
        await owner.receive(events)
    owner.close()
