"""Dummy events: they tie many forward extremities together again, where nobody is about to send anything else.

An event may name 20 predecessors, and every further extremity makes resolution dearer. A dummy event needs a local
user who may send one; where there is none, the room waits for the next event of anybody.
"""

from shared.core.errors import AuthRuleViolation, MatrixError, Unavailable
from shared.core.identifiers import server_of
from shared.runtime.tasks import TaskGroup
from workers.event_persister.drafts import Draft, RoomChanged
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

#: The type that is in use between servers for this; clients ignore it.
DUMMY = "org.matrix.dummy_event"
#: Below that, the next usual event names them all soon enough.
MAX_EXTREMITIES = 10
_MAX_IN_A_ROW = 100


class DummyEvents:
    def __init__(self, writer: RoomWriter, tasks: TaskGroup, server_name: str) -> None:
        self._writer = writer
        self._tasks = tasks
        self._server_name = server_name
        self._under_way: set[str] = set()

    def look(self, room: LiveRoom) -> None:
        """Tie the room's extremities together, beside everything else, when they are many."""
        if len(room.head.extremities) >= MAX_EXTREMITIES and room.room_id not in self._under_way:
            self._under_way.add(room.room_id)
            task = self._tasks.spawn(self._collapse(room.room_id), "tie extremities together")
            task.add_done_callback(lambda _: self._under_way.discard(room.room_id))

    async def _collapse(self, room_id: str) -> None:
        for _ in range(_MAX_IN_A_ROW):
            try:
                if not await self._writer.in_room(room_id, self._send_one):
                    return
            except (AuthRuleViolation, MatrixError, Unavailable, RoomChanged):
                return  # as if nobody might: the next event of anybody does it

    async def _send_one(self, room: LiveRoom) -> bool:
        """Send one, if there is anybody who may and anything to do."""
        before = len(room.head.extremities)
        sender = self._sender(room) if before > 1 else None
        if sender is None:
            return False
        await self._writer.write(room, [Draft(sender, DUMMY, None, {})])
        return 1 < len(room.head.extremities) < before

    def _sender(self, room: LiveRoom) -> str | None:
        levels = room.power_levels
        needed = levels.event_level(DUMMY, False)
        local = (user_id for user_id in room.members("join") if server_of(user_id) == self._server_name)
        return next((user_id for user_id in local if levels.user_level(user_id) >= needed), None)
