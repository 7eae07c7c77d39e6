"""Management of delayed events (MSC4140). The owner of the room schedules and sends them.

The stable paths need an access token. The unstable paths need only the id, which cannot be guessed. With an id from the
client, a call's media server can restart or send the event after the client has vanished.
"""

import asyncio

import msgspec

from replication.calls.owner_calls import Ask
from replication.calls.rooms import DelayedEventAnswer, DelayedEventToSend
from shared.core.delayed_events import ACTIONS, Action, DelayedEvent, action_result, delayed_event_to_json
from shared.core.errors import MatrixError, Unavailable, not_found, unrecognized
from shared.core.identifiers import UserId
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database
from shared.storage.events.delayed import (
    cancel_delayed_event,
    claim_delayed_event,
    finalise_delayed_event,
    get_delayed_event,
    give_up_claim,
    list_scheduled_events,
    restart_delayed_event,
)

_RETRY_AFTER_S = 0.1
_ATTEMPTS = 50  # 5 s: by then the process that is sending the event has finished or died


class ActionBody(msgspec.Struct):
    action: Action


class DelayedEvents:
    def __init__(self, database: Database, send: Ask[DelayedEventToSend, DelayedEventAnswer]) -> None:
        self._database = database
        self._send_now = send

    @endpoint(
        name="list_delayed_events",
        method="GET",
        path="/_matrix/client/{version}/delayed_events",
        aliases=("/_matrix/client/unstable/org.matrix.msc4140/delayed_events",),
        versions=("v1",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="MSC4140",
    )
    async def list_delayed_events(self, request: Request) -> Response:
        """GET /delayed_events: the requester's events that are still scheduled."""
        older_names = _uses_older_names(request)
        events = await list_scheduled_events(self._database, request.user.user_id)
        shown = [delayed_event_to_json(event, older_names=older_names) for event in events]
        return json_response({"delayed_events": shown})

    @endpoint(
        name="get_delayed_event",
        method="GET",
        path="/_matrix/client/{version}/delayed_events/{delayId}",
        aliases=("/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}",),
        versions=("v1",),
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="MSC4140",
    )
    async def get_delayed_event(self, request: Request) -> Response:
        """GET /delayed_events/{delayId}. Finalised events are found while they are kept. Raises M_NOT_FOUND."""
        event = await self._find(request.params["delayId"], request.user.user_id)
        return json_response(delayed_event_to_json(event, older_names=_uses_older_names(request)))

    @endpoint(
        name="update_delayed_event",
        method="POST",
        path="/_matrix/client/{version}/delayed_events/{delayId}/{action}",
        versions=("v1",),
        pool="client",
        rate_limit=RateLimit.READ,
        spec="MSC4140",
    )
    # Under the unstable paths the id of the event is enough to act on it, without a token.
    @endpoint(
        name="update_delayed_event_unstable",
        method="POST",
        path="/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}/{action}",
        pool="client",
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ,
        spec="MSC4140",
    )
    async def update_delayed_event(self, request: Request) -> Response:
        """POST /delayed_events/{delayId}/{action}.

        Raises M_NOT_FOUND, M_UNKNOWN (409) if it was finalised by another action, and the error of a failed send.
        """
        action = next((action for action in ACTIONS if action == request.params["action"]), None)
        if action is None:
            raise unrecognized()
        return await self._update(request, action)

    @endpoint(
        name="update_delayed_event_by_body",
        method="POST",
        path="/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delayId}",
        pool="client",
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ,
        spec="MSC4140",
    )
    async def update_delayed_event_by_body(self, request: Request) -> Response:
        """POST /delayed_events/{delayId}, with the action in the body as in earlier drafts."""
        return await self._update(request, request.decode(ActionBody).action)

    async def _update(self, request: Request, action: Action) -> Response:
        delay_id = request.params["delayId"]
        user_id = None if request.requester is None else request.requester.user_id
        for _ in range(_ATTEMPTS):
            if await self._try(action, delay_id, user_id):
                return empty_response()
            verdict = action_result(await self._find(delay_id, user_id), action)
            if verdict == "done":
                return empty_response()
            if verdict == "conflict":
                raise MatrixError("M_UNKNOWN", "Another action has finalised the delayed event", 409)
            await asyncio.sleep(_RETRY_AFTER_S)
        raise Unavailable("The delayed event is being sent")

    async def _try(self, action: Action, delay_id: str, user_id: UserId | None) -> bool:
        """Perform the action and return True if the event is scheduled and no process is sending it."""
        if action == "restart":
            return await restart_delayed_event(self._database, delay_id, user_id)
        if action == "cancel":
            return await cancel_delayed_event(self._database, delay_id, user_id)
        mark = await claim_delayed_event(self._database, delay_id, user_id)
        if mark is None:
            return False
        await self._send(await self._find(delay_id, user_id), mark)
        return True

    async def _send(self, event: DelayedEvent, mark: int) -> None:
        """Send the event now.

        If that fails, it stays scheduled. If this process dies, the background job takes over the claim.
        """
        to_send = DelayedEventToSend(
            delay_id=event.delay_id,
            sender=event.user_id,
            type=event.type,
            state_key=event.state_key,
            content=msgspec.Raw(event.content),
            sticky_ms=event.sticky_ms,
        )
        answer = await self._send_now(event.room_id, to_send)
        if answer.event_id is not None:
            await finalise_delayed_event(self._database, event.delay_id, answer.event_id, None)
            return
        await give_up_claim(self._database, event.delay_id, mark)
        error = msgspec.json.decode(answer.error, type=dict[str, object])
        errcode, message = str(error.pop("errcode")), str(error.pop("error"))
        raise MatrixError(errcode, message, answer.status, error)

    async def _find(self, delay_id: str, user_id: UserId | None) -> DelayedEvent:
        event = await get_delayed_event(self._database, delay_id)
        if event is None or user_id not in (None, event.user_id):
            raise not_found("There is no such delayed event")
        return event


def _uses_older_names(request: Request) -> bool:
    return b"/unstable/" in request.path
