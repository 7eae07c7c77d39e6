"""Remove the guests of a room that does not admit guests any more.

Before a change that may end their access, a row is stored. If this process dies after the change, a background worker
lets the room's next owner continue. Spec: client-server API, "Guest Access", server behaviour.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

from replication.calls.rooms import REMOVE_GUESTS
from shared.core.identifiers import RoomId
from shared.http.internal_calls import EMPTY, Empty
from shared.runtime.tasks import TaskGroup
from shared.storage.engine.pool import Database
from shared.storage.rooms.guest_removals import expect_guest_removal, finish_guest_removal, get_guest_removal
from shared.storage.rooms.memberships import get_joined_guests
from workers.event_persister.members.member_changes import guests_can_join
from workers.event_persister.members.member_draft import member_draft
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

T = TypeVar("T")
_GUESTS_AT_A_TIME = 100


class GuestRemoval:
    def __init__(self, writer: RoomWriter, tasks: TaskGroup, database: Database) -> None:
        self._writer = writer
        self._tasks = tasks
        self._database = database

    async def around(self, room: LiveRoom, change: Callable[[], Awaitable[T]]) -> T:
        """Make a change that may end the guests' access, and return its result. The guests may leave later."""
        if not guests_can_join(room):
            return await change()
        await expect_guest_removal(self._database, room.room_id)
        changed = await change()
        if not guests_can_join(room):
            self._start(room.room_id)
        return changed

    async def begin(self, room: LiveRoom) -> None:
        """Remove the guests after another server's event, or state resolution, has ended their access."""
        await expect_guest_removal(self._database, room.room_id)
        self._start(room.room_id)

    @REMOVE_GUESTS.handler
    async def remove_guests(self, room_id: RoomId, _: Empty) -> Empty:
        """Remove the guests of a room that no longer admits guests, if a removal is expected."""
        await self._remove(room_id)
        return EMPTY

    def _start(self, room_id: RoomId) -> None:
        self._tasks.spawn(self._remove(room_id), "remove guests")

    async def _remove(self, room_id: RoomId) -> None:
        number = await get_guest_removal(self._database, room_id)
        if number is None:
            return
        if await self._writer.find(room_id) is not None:
            await self._writer.in_room(room_id, self._remove_from)
        await finish_guest_removal(self._database, room_id, number)

    async def _remove_from(self, room: LiveRoom) -> None:
        if guests_can_join(room):
            return
        guests = await get_joined_guests(self._database, room.room_nid)
        for start in range(0, len(guests), _GUESTS_AT_A_TIME):
            some = guests[start : start + _GUESTS_AT_A_TIME]
            present = [guest for guest in some if room.state.membership(guest) == "join"]
            if present:
                await self._writer.write(room, [member_draft(guest, guest, "leave", {}) for guest in present])
