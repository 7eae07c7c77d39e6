"""Schedule delayed events (MSC4140), and read for how long an event is sticky (MSC4354).

Scheduling reads nothing but whether the room exists. Whether the sender may send the event is decided when its time
has come (`delayed_sending.py`).
"""

import secrets
from typing import Annotated, Any

import msgspec
import orjson

from shared.config.sections import DelayedEvents
from shared.core.delayed_events import DelayedEvent
from shared.core.errors import MatrixError, forbidden, invalid_param
from shared.core.identifiers import check_room_id
from shared.core.sticky_events import MAX_STICKY_MS
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.http.transaction_key import transaction_key
from shared.operations.quotas import UserQuotas
from shared.storage.engine.pool import Database
from shared.storage.events.delayed import schedule_delayed_event

#: In the query of a send: the form that Element Call has used since the MSC's first drafts.
DELAY = "org.matrix.msc4140.delay"
STICKY_DURATION = "org.matrix.msc4354.sticky_duration_ms"
_MAX_CONTENT_BYTES = 65_536  # what an event may have
_ID_BYTES = 24  # cannot be guessed: all who have the id may act on the event


class ScheduleBody(msgspec.Struct):
    delay_ms: Annotated[int, msgspec.Meta(gt=0, lt=1 << 53)]
    content: dict[str, Any]
    state_key: str | None = None


class Scheduling:
    """has_sticky: True if this server has sticky events."""

    def __init__(self, database: Database, limits: DelayedEvents, quotas: UserQuotas, *, has_sticky: bool) -> None:
        self._database = database
        self._quotas = quotas
        self._limits = limits
        self._has_sticky = has_sticky

    def sticky_ms(self, request: Request) -> int | None:
        """Return for how long the event of this request is to be sticky, None: not at all.

        Raises M_INVALID_PARAM beyond an hour.
        """
        if not self._has_sticky or STICKY_DURATION not in request.query:
            return None
        sticky_ms = request.query_int(STICKY_DURATION, 0)
        if sticky_ms > MAX_STICKY_MS:
            raise invalid_param(f"An event can be sticky for {MAX_STICKY_MS} ms at most")
        return sticky_ms

    @endpoint(
        name="schedule_delayed_event",
        method="PUT",
        path="/_matrix/client/{version}/rooms/{roomId}/delayed_event/{eventType}/{txnId}",
        aliases=("/_matrix/client/unstable/org.matrix.msc4140/rooms/{roomId}/delayed_event/{eventType}/{txnId}",),
        versions=("v3",),
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        idempotent=True,
        spec="MSC4140",
    )
    async def schedule_delayed_event(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/delayed_event/{eventType}/{txnId}. Raises as `_schedule`."""
        body = request.decode(ScheduleBody)
        return await self._schedule(request, body.state_key, body.content, body.delay_ms, transaction_key(request))

    async def schedule_message(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/send/{eventType}/{txnId} with a delay in its query. Raises as `_schedule`."""
        return await self._schedule(request, None, request.json_object(), _delay_ms(request), transaction_key(request))

    async def schedule_state(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/state/{eventType}/{stateKey} with a delay in its query. Raises as `_schedule`.

        The path has no transaction: scheduling twice makes two events.
        """
        return await self._schedule(
            request, request.params["stateKey"], request.json_object(), _delay_ms(request), key=None
        )

    async def _schedule(
        self, request: Request, state_key: str | None, content: dict[str, Any], delay_ms: int, key: bytes | None
    ) -> Response:
        """Schedule an event. key: of the client's transaction, if there is one.

        Raises M_FORBIDDEN beyond the longest delay, M_LIMIT_EXCEEDED beyond number and size of all, M_TOO_LARGE.
        """
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
            sticky_ms=self.sticky_ms(request),
            delay_ms=delay_ms,
            scheduled_ms=0,
        )
        scheduled = await schedule_delayed_event(
            self._database,
            event,
            key,
            max_scheduled=self._limits.max_scheduled,
            max_bytes=self._quotas.limits.delayed_events_bytes,
        )
        if not scheduled.is_room:
            raise forbidden("You are not in this room")
        if scheduled.delay_id is None:
            self._quotas.note_refused("delayed_events_bytes")
            message = "The maximum number or size of delayed events has been reached"
            raise MatrixError("M_LIMIT_EXCEEDED", message, 429, {"retry_after_ms": scheduled.wait_ms})
        return json_response({"delay_id": scheduled.delay_id})


def _delay_ms(request: Request) -> int:
    return request.query_int(DELAY, 0, minimum=1)
