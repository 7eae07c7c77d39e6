"""Updates the member events of a user after a profile change. The owner of each room sends the event.

The change is a row (`profile_changes`) until all rooms have it. If this process dies, or cannot reach a room, a
background worker finishes the work.
Spec: client-server API, "Events on Change of Profile Information".
"""

import asyncio
import logging

from replication.calls.owner_calls import Ask
from replication.calls.rooms import MemberProfileAnswer, MemberProfileChange
from shared.core.errors import RemoteServerError, Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.runtime.tasks import TaskGroup
from shared.storage.accounts.profiles import end_profile_change, get_profile_change
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import list_joined_rooms

logger = logging.getLogger(__name__)

_ROOMS_AT_A_TIME = 8  # per user: a user in a thousand rooms must not fill the persisters' queues
_ANSWER_AFTER_S = 1.0  # most users are in few rooms, and see their new name there once the request is answered
_ATTEMPTS = 3


class MemberProfileSender:
    """Runs at most one update per user at a time. Changes during a run lead to one more run."""

    def __init__(
        self, database: Database, set_profile: Ask[MemberProfileChange, MemberProfileAnswer], tasks: TaskGroup
    ) -> None:
        self._database = database
        self._set_profile = set_profile
        self._tasks = tasks
        self._running: dict[UserId, asyncio.Task[None]] = {}
        self._changed_meanwhile: set[UserId] = set()

    async def profile_changed(self, user_id: UserId) -> None:
        """Begin to update the user's member events from the stored profile, and wait at most a second."""
        run = self._running.get(user_id)
        if run is not None:
            self._changed_meanwhile.add(user_id)
        else:
            run = self._tasks.spawn(self._run(user_id), "update member events after a profile change")
            self._running[user_id] = run
        await asyncio.wait({run}, timeout=_ANSWER_AFTER_S)

    async def finished(self, user_id: UserId) -> None:
        """Wait until the user's profile is in all their rooms, except those whose owners cannot be reached."""
        if (run := self._running.get(user_id)) is not None:
            await asyncio.wait({run})

    async def _run(self, user_id: UserId) -> None:
        try:
            while True:
                self._changed_meanwhile.discard(user_id)
                number = await get_profile_change(self._database, user_id)
                all_done = await self._send_to_all(user_id)
                if user_id not in self._changed_meanwhile:
                    if all_done and number is not None:
                        await end_profile_change(self._database, user_id, number)
                    return
        except Unavailable as error:
            logger.info("A profile change is left to the background job: %s", error)
        finally:
            del self._running[user_id]
            self._changed_meanwhile.discard(user_id)

    async def _send_to_all(self, user_id: UserId) -> bool:
        """Return True if all rooms have the change."""
        change = MemberProfileChange(user_id)  # the owner of each room reads the stored profile
        turns = asyncio.Semaphore(_ROOMS_AT_A_TIME)

        async def send(room_id: RoomId) -> bool:
            async with turns:
                # After another change, the next run brings a newer profile to this room.
                return user_id in self._changed_meanwhile or await self._send(room_id, change)

        rooms = await list_joined_rooms(self._database, user_id)
        async with asyncio.TaskGroup() as group:
            sent = [group.create_task(send(room_id)) for room_id in rooms]
        return all(task.result() for task in sent)

    async def _send(self, room_id: RoomId, change: MemberProfileChange) -> bool:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                await self._set_profile(room_id, change)
                return True
            except (Unavailable, RemoteServerError) as error:
                logger.warning("A profile change did not reach a room (attempt %d): %s", attempt, error)
        return False
