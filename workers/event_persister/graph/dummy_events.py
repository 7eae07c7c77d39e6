"""Dummy events, which reduce the number of a room's forward extremities.

An event may name 20 predecessors, and every further extremity makes resolution more expensive. A dummy event needs a
local user with the right to send it. A room without one waits for its next event.

A call that brought in more extremities than one event may name ties them at once, before another call can add more.
The rest is tied in the background, unless another event, which names them all, was sent by then.
"""

import itertools
from collections.abc import Awaitable, Callable

from shared.core.errors import AuthRuleViolation, MatrixError, RemoteServerError, Unavailable
from shared.core.identifiers import RoomId, UserId, server_of
from shared.core.unread import DUMMY
from shared.runtime.tasks import TaskGroup
from workers.event_persister.graph.slow_sends import SlowSends
from workers.event_persister.room.drafts import Draft, RoomChanged
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

#: Below this number, waiting for the next usual event is good enough.
MAX_EXTREMITIES = 10
_MAX_IN_A_ROW = 100
#: A user who may send by the current state may not by the state of some branches. Then another user is tried.
_MAX_SENDERS = 3


class DummyEvents:
    def __init__(self, writer: RoomWriter, slow_sends: SlowSends, tasks: TaskGroup, server_name: str) -> None:
        self._writer = writer
        self._slow_sends = slow_sends
        self._tasks = tasks
        self._server_name = server_name
        self._under_way: set[str] = set()

    async def tie(self, room: LiveRoom) -> None:
        """Tie extremities together until one event can name those that are left. The rest is done in the background.

        If a policy server must sign each event, all of it is done in the background, since nothing may hold a room's
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

    async def _collapse(self, room_id: RoomId) -> None:
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
            return False  # the call that has just brought in so many ties them
        return len(room.state.head.extremities) > 1 and await self._send_one(room, write)

    async def _send_one(self, room: LiveRoom, send: Callable[[Draft], Awaitable[None]]) -> bool:
        """Send one dummy event if there is a user with the right to. Return whether it was sent."""
        for sender in self._senders(room):
            try:
                await send(Draft(sender=sender, type=DUMMY, state_key=None, content={}))
            except (AuthRuleViolation, MatrixError):
                continue
            except (Unavailable, RemoteServerError, RoomChanged):
                return False  # the next event of the room does it
            return True
        return False

    def _senders(self, room: LiveRoom) -> list[UserId]:
        levels = room.state.power_levels
        needed = levels.event_level(DUMMY, False)
        local = (user_id for user_id in room.state.walk_members("join") if server_of(user_id) == self._server_name)
        return list(itertools.islice((one for one in local if levels.user_level(one) >= needed), _MAX_SENDERS))
