"""Delayed events (MSC4140): scheduling them, in all forms, and sending one whose time has come.

Scheduling asks for nothing but the room: whether the sender may send it is decided when it is sent.
"""

import secrets
from typing import Annotated, Any, Protocol

import msgspec
import orjson

from replication.calls.rooms import SEND_DELAYED_EVENT, DelayedEventAnswer, DelayedEventToSend
from shared.config.sections import DelayedEvents
from shared.core.delayed_events import DELAYED_TXN_DEVICE, DelayedEvent, sending_key
from shared.core.errors import (
    AuthRuleViolation,
    EventFormatError,
    MatrixError,
    RemoteServerError,
    forbidden,
    invalid_param,
)
from shared.core.identifiers import check_room_id
from shared.core.sticky_events import MAX_STICKY_MS
from shared.http.endpoint import RateLimit
from shared.http.errors_to_json import response_for
from shared.http.request import Request, Requester, Response, json_response
from shared.http.transaction_key import transaction_key
from shared.storage.accounts.users import get_account
from shared.storage.engine.pool import Database
from shared.storage.events.delayed import schedule
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter

#: In the query of a send: the form that Element Call has used since the MSC's first drafts.
_DELAY = "org.matrix.msc4140.delay"
_STICKY = "org.matrix.msc4354.sticky_duration_ms"
_MAX_CONTENT_BYTES = 65_536  # what an event may have
_ID_BYTES = 24  # nobody guesses it: who has it may act on the event


class ScheduleBody(msgspec.Struct):
    delay_ms: Annotated[int, msgspec.Meta(gt=0, lt=1 << 53)]
    content: dict[str, Any]
    state_key: str | None = None


class Limiter(Protocol):
    """What of `FleetRateLimiter` is needed."""

    async def check(self, limit: RateLimit, requester: Requester | None, client_address: str) -> None: ...


class Messages(Protocol):
    """`SendHandlers`."""

    async def put(
        self, room: LiveRoom, user: Requester, event_type: str, content: dict[str, Any], key: bytes,
        shown_to: tuple[str | None, str], sticky_ms: int | None,
    ) -> str: ...  # fmt: skip


class States(Protocol):
    """`StateHandlers`."""

    async def put(
        self, room: LiveRoom, user: Requester, event_type: str, state_key: str, content: dict[str, Any], *,
        key: bytes | None = None, shown_to: tuple[str | None, str] | None = None, sticky_ms: int | None = None,
    ) -> str: ...  # fmt: skip


class Scheduling:
    """has_sticky: whether this server has sticky events."""

    def __init__(self, database: Database, limits: DelayedEvents, *, has_sticky: bool) -> None:
        self._database = database
        self._limits = limits
        self._has_sticky = has_sticky

    def sticky_of(self, request: Request) -> int | None:
        """Return for how long the event of this request is to be sticky (MSC4354), None: not at all.

        Raises M_INVALID_PARAM beyond an hour.
        """
        if not self._has_sticky or _STICKY not in request.query:
            return None
        sticky_ms = request.query_int(_STICKY, 0)
        if sticky_ms > MAX_STICKY_MS:
            raise invalid_param(f"An event can be sticky for {MAX_STICKY_MS} ms at most")
        return sticky_ms

    async def schedule_delayed_event(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/delayed_event/{eventType}/{txnId}. Raises as `schedule`."""
        body = request.decode(ScheduleBody)
        return await self._schedule(request, body.state_key, body.content, body.delay_ms, transaction_key(request))

    async def instead_of_sending(self, request: Request, content: dict[str, Any], key: bytes | None) -> Response | None:
        """Schedule the event of a send, or of state, whose query says so; None: it is to be sent now.

        key: of the client's transaction, where there is one.
        """
        if _DELAY not in request.query:
            return None
        delay_ms = request.query_int(_DELAY, 0, minimum=1)
        return await self._schedule(request, request.params.get("stateKey"), content, delay_ms, key)

    async def _schedule(
        self, request: Request, state_key: str | None, content: dict[str, Any], delay_ms: int, key: bytes | None
    ) -> Response:
        """Raises M_FORBIDDEN beyond the longest delay, M_LIMIT_EXCEEDED beyond the number, M_TOO_LARGE."""
        encoded = orjson.dumps(content)
        if self._limits.max_scheduled == 0:
            raise forbidden("This server schedules no delayed events")
        if delay_ms > self._limits.max_delay_s * 1000:
            raise forbidden(f"An event can be delayed for {self._limits.max_delay_s} s at most")
        if len(encoded) > _MAX_CONTENT_BYTES:
            raise MatrixError("M_TOO_LARGE", "The event is too large", 413)
        event = DelayedEvent(
            delay_id=secrets.token_urlsafe(_ID_BYTES),
            user_id=request.user.user_id,
            room_id=check_room_id(request.params["roomId"]),
            type=request.params["eventType"],
            state_key=state_key,
            content=encoded,
            sticky_ms=self.sticky_of(request),
            delay_ms=delay_ms,
            scheduled_ms=0,
        )
        scheduled = await schedule(self._database, event, key, self._limits.max_scheduled)
        if not scheduled.is_room:
            raise forbidden("You are not in this room")
        if scheduled.delay_id is None:
            message = "The maximum number of delayed events has been reached"
            raise MatrixError("M_LIMIT_EXCEEDED", message, 429, {"retry_after_ms": scheduled.wait_ms})
        return json_response({"delay_id": scheduled.delay_id})


class DelayedSending:
    def __init__(
        self, writer: RoomWriter, messages: Messages, states: States, limiter: Limiter, database: Database
    ) -> None:
        self._database = database
        self._writer = writer
        self._messages = messages
        self._states = states
        self._limiter = limiter

    @SEND_DELAYED_EVENT.handler
    async def send_delayed_event(self, room_id: str, event: DelayedEventToSend) -> DelayedEventAnswer:
        """Send a delayed event. A lasting refusal is the answer, a temporary one is an error of this call."""
        try:
            return DelayedEventAnswer(await self._send(room_id, event))
        except (MatrixError, AuthRuleViolation, EventFormatError, RemoteServerError) as error:
            refused = response_for(error)
            assert isinstance(refused.body, bytes)
            return DelayedEventAnswer(None, refused.status, msgspec.Raw(refused.body))

    async def _send(self, room_id: str, event: DelayedEventToSend) -> str:
        account = await get_account(self._database, event.sender)
        user = Requester(event.sender, None, b"", account is not None and account.kind == "guest")
        content: dict[str, Any] = orjson.loads(bytes(event.content))
        key, shown_to = sending_key(event.delay_id), (DELAYED_TXN_DEVICE, event.delay_id)
        if not event.again:
            await self._limiter.check(RateLimit.MESSAGE, user, "")

        async def send(room: LiveRoom) -> str:
            if (answered := await self._writer.first_answer(room, key)) is not None:
                return answered
            if event.state_key is None:
                return await self._messages.put(room, user, event.type, content, key, shown_to, event.sticky_ms)
            return await self._states.put(
                room, user, event.type, event.state_key, content, key=key, shown_to=shown_to, sticky_ms=event.sticky_ms
            )

        return await self._writer.in_room(room_id, send)
