"""Send a delayed event (MSC4140) whose time has come. The fleet's background workers call this."""

from typing import Any

import msgspec
import orjson

from replication.calls.rooms import SEND_DELAYED_EVENT, DelayedEventAnswer, DelayedEventToSend
from shared.core.delayed_events import sending_key
from shared.core.errors import AuthRuleViolation, EventFormatError, MatrixError, RemoteServerError
from shared.core.identifiers import EventId, RoomId
from shared.core.rows import NO_DEVICE
from shared.http.endpoint import RateLimit
from shared.http.errors_to_json import response_for
from shared.http.request import Requester
from shared.http.server import RateLimiter
from shared.storage.accounts.users import get_account
from shared.storage.engine.pool import Database
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.writing.send import SendHandlers
from workers.event_persister.writing.send_state import StateHandlers


class DelayedSending:
    def __init__(
        self,
        writer: RoomWriter,
        messages: SendHandlers,
        states: StateHandlers,
        limiter: RateLimiter,
        database: Database,
    ) -> None:
        self._database = database
        self._writer = writer
        self._messages = messages
        self._states = states
        self._limiter = limiter

    @SEND_DELAYED_EVENT.handler
    async def send_delayed_event(self, room_id: RoomId, event: DelayedEventToSend) -> DelayedEventAnswer:
        """Send a delayed event. A lasting refusal is the answer, a temporary one is an error of this call."""
        try:
            return DelayedEventAnswer(await self._send(room_id, event))
        except (MatrixError, AuthRuleViolation, EventFormatError, RemoteServerError) as error:
            refused = response_for(error)
            assert isinstance(refused.body, bytes)
            return DelayedEventAnswer(None, refused.status, msgspec.Raw(refused.body))

    async def _send(self, room_id: RoomId, event: DelayedEventToSend) -> EventId:
        account = await get_account(self._database, event.sender)
        user = Requester(event.sender, None, b"", account is not None and account.kind == "guest")
        content: dict[str, Any] = orjson.loads(bytes(event.content))
        key, shown_to = sending_key(event.delay_id), (NO_DEVICE, event.delay_id)
        if not event.again:
            await self._limiter.check(RateLimit.MESSAGE, user, "")

        async def send(room: LiveRoom) -> EventId:
            if (answered := await self._writer.first_answer(room, key)) is not None:
                return answered
            if event.state_key is None:
                return await self._messages.put(
                    room, user, event.type, content, key=key, shown_to=shown_to, sticky_ms=event.sticky_ms
                )
            return await self._states.put(
                room, user, event.type, event.state_key, content, key=key, shown_to=shown_to, sticky_ms=event.sticky_ms
            )

        return await self._writer.in_room(room_id, send)
