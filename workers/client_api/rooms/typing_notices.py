"""Typing notices. They exist in memory and on the ephemeral stream `typing` only.

A row carries the time at which typing ends, after which readers drop it. A stop is announced too, so that readers see
it at once. One process keeps all notices of a user, so a stop never overtakes its start.
Spec: client-server API, "Typing Notifications".
"""

import asyncio
from typing import NamedTuple

import msgspec

from replication.streams import TYPING
from replication.streams.announcer import Announcer
from shared.core.errors import Unavailable, forbidden, limit_exceeded
from shared.core.identifiers import RoomId, UserId, check_room_id
from shared.core.rows import TypingRow
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response
from shared.http.serving import endpoint
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import get_user_in_room
from workers.client_api.people.present_users import PresentUsers
from workers.client_api.user_data.account_data import own_user_id

DEFAULT_TIMEOUT_MS = 30_000
MAX_TIMEOUT_MS = 120_000
_MAX_NOTICES = 20_000  # at a time in one process; some 500 bytes each, with long ids 1 KB
_MAX_OF_USER = 100  # rooms in which a user may be typing at a time


class TypingBody(msgspec.Struct):
    typing: bool
    timeout: int = DEFAULT_TIMEOUT_MS


class _Notice(NamedTuple):
    timer: asyncio.TimerHandle  # ends the notice
    until_ms: int


class TypingNotices:
    def __init__(self, database: Database, announcer: Announcer, present_users: PresentUsers, clock: Clock) -> None:
        self._database = database
        self._announcer = announcer
        self._present_users = present_users
        self._clock = clock
        self._notices: dict[tuple[RoomId, UserId], _Notice] = {}
        #: The number of notices of each user who has any.
        self._of_user: dict[UserId, int] = {}
        announcer.set_values(TYPING, self._all_rows)

    @endpoint(
        name="set_typing",
        method="PUT",
        path="/_matrix/client/{version}/rooms/{roomId}/typing/{userId}",
        api_v1=True,
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        spec="client-server-api/#put_matrixclientv3roomsroomidtypinguserid",
    )
    async def set_typing(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/typing/{userId}. Raises M_FORBIDDEN for another user, or outside of the room.

        Raises M_LIMIT_EXCEEDED if the user is typing in too many rooms.
        """
        user_id, room_id = own_user_id(request), check_room_id(request.params["roomId"])
        body = request.decode(TypingBody)
        room = await get_user_in_room(self._database, room_id, user_id)
        if room is None or room.membership != "join":
            raise forbidden("You are not in this room")
        timeout_ms = min(body.timeout, MAX_TIMEOUT_MS)
        if body.typing and timeout_ms > 0:
            self._start(room_id, user_id, timeout_ms)
        else:
            self._stop(room_id, user_id)
        self._present_users.note_activity(request.user)
        return empty_response()

    def stop_all(self) -> None:
        """End all notices. No other process would end them after this one has stopped."""
        for room_id, user_id in list(self._notices):
            self._stop(room_id, user_id)

    def _start(self, room_id: RoomId, user_id: UserId, timeout_ms: int) -> None:
        key = room_id, user_id
        if (running := self._notices.pop(key, None)) is not None:
            running.timer.cancel()
        elif len(self._notices) >= _MAX_NOTICES:
            raise Unavailable("Too many users are typing on this process")
        elif self._of_user.get(user_id, 0) >= _MAX_OF_USER:
            raise limit_exceeded(timeout_ms / 1000, f"You may be typing in {_MAX_OF_USER} rooms at a time")
        else:
            self._of_user[user_id] = self._of_user.get(user_id, 0) + 1
        timer = asyncio.get_running_loop().call_later(timeout_ms / 1000, self._stop, *key)
        notice = self._notices[key] = _Notice(timer, self._clock.now_ms() + timeout_ms)
        self._announcer.announce(TYPING, [self._row(room_id, user_id, notice.until_ms)])

    def _stop(self, room_id: RoomId, user_id: UserId) -> None:
        running = self._notices.pop((room_id, user_id), None)
        if running is not None:
            running.timer.cancel()
            self._of_user[user_id] -= 1
            if not self._of_user[user_id]:
                del self._of_user[user_id]
        # Even without a notice here: another process may have owned the user's slot when typing began.
        self._announcer.announce(TYPING, [self._row(room_id, user_id, 0)])

    def _all_rows(self) -> list[TypingRow]:
        return [self._row(*key, notice.until_ms) for key, notice in self._notices.items()]

    def _row(self, room_id: RoomId, user_id: UserId, until_ms: int) -> TypingRow:
        position = self._announcer.next_ephemeral_position(TYPING)
        return TypingRow(
            position=position, writer=self._announcer.lease, room_id=room_id, user_id=user_id, until_ms=until_ms
        )
