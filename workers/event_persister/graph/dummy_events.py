"""Dummy events: they tie many forward extremities together again, where nobody is about to send anything else.

An event may name 20 predecessors, and every further extremity makes resolution dearer. A dummy event needs a local
user who may send one; where there is none, the room waits for the next event of anybody.

Whoever has brought in more extremities than one event may name ties them at once, before others may add more. What is
left after that is tied beside everything else, if nobody else has sent an event by then: it will name them all.
"""

import itertools
from collections.abc import Awaitable, Callable

from shared.core.errors import AuthRuleViolation, MatrixError, RemoteServerError, Unavailable
from shared.core.identifiers import server_of
from shared.core.unread import DUMMY
from shared.runtime.tasks import TaskGroup
from workers.event_persister.graph.slow_sends import SlowSends
from workers.event_persister.room.drafts import Draft, RoomChanged
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

#: Below that, the next usual event names them all soon enough.
MAX_EXTREMITIES = 10
_MAX_IN_A_ROW = 100
#: Who may send by the current state may not by the state of some branches: then another is tried.
_MAX_SENDERS = 3


class DummyEvents:
    def __init__(self, writer: RoomWriter, slow_sends: SlowSends, tasks: TaskGroup, server_name: str) -> None:
        self._writer = writer
        self._slow_sends = slow_sends
        self._tasks = tasks
        self._server_name = server_name
        self._under_way: set[str] = set()

    async def tie(self, room: LiveRoom) -> None:
        """Tie extremities together until one event can name what is left; the rest beside everything else.

        All of it beside everything else where a policy server must be asked about each event: nobody holds a room's
        turn while another server takes its time. The caller holds the room's turn. Raises nothing.
        """
        many = len(room.state.head.extremities) >= MAX_EXTREMITIES
        for _ in range(_MAX_IN_A_ROW):
            if room.lost or room.state.names_all_extremities or room.state.policy_server() is not None:
                break
            if not await self._send_one(room, lambda draft: self._slow_sends.place_unasked(room, draft)):
                return
        if many and room.room_id not in self._under_way:
            self._under_way.add(room.room_id)
            task = self._tasks.spawn(self._collapse(room.room_id), "tie extremities together")
            task.add_done_callback(lambda _: self._under_way.discard(room.room_id))

    async def _collapse(self, room_id: str) -> None:
        for _ in range(_MAX_IN_A_ROW):
            try:
                if not await self._writer.in_room(room_id, self._write_one):
                    return
            except (MatrixError, Unavailable):
                return  # the room is gone

    async def _write_one(self, room: LiveRoom) -> bool:
        async def write(draft: Draft) -> None:
            await self._writer.write(room, [draft])

        if not room.state.names_all_extremities and room.state.policy_server() is None:
            return False  # whoever has just brought in so many ties them
        return len(room.state.head.extremities) > 1 and await self._send_one(room, write)

    async def _send_one(self, room: LiveRoom, send: Callable[[Draft], Awaitable[None]]) -> bool:
        """Send one, if there is anybody who may."""
        for sender in self._senders(room):
            try:
                await send(Draft(sender, DUMMY, None, {}))
            except (AuthRuleViolation, MatrixError):
                continue
            except (Unavailable, RemoteServerError, RoomChanged):
                return False  # as if nobody might: the next event of anybody does it
            return True
        return False

    def _senders(self, room: LiveRoom) -> list[str]:
        levels = room.state.power_levels
        needed = levels.event_level(DUMMY, False)
        local = (user_id for user_id in room.state.walk_members("join") if server_of(user_id) == self._server_name)
        return list(itertools.islice((one for one in local if levels.user_level(one) >= needed), _MAX_SENDERS))
