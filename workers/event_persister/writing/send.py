"""Messages and redactions. Spec: client-server API, "Sending events to a room", "Redactions"."""

import secrets
from typing import Any

import msgspec

from shared.core.errors import forbidden, invalid_param, missing_param, not_found
from shared.core.identifiers import EventId
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Requester, Response, json_response
from shared.http.serving import endpoint
from shared.http.transaction_key import transaction_key
from shared.storage.engine.pool import Database
from shared.storage.events.stored_events import get_event_by_id
from shared.storage.events.timeline import get_room_of_event
from workers.event_persister.members.guest_removal import GuestRemoval
from workers.event_persister.room.drafts import Draft, RedactionTarget
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room.room_state import GUEST_ACCESS
from workers.event_persister.room_writer import RoomWriter
from workers.event_persister.writing.refusals import RelationRefusals, check_content
from workers.event_persister.writing.scheduling import DELAY, Scheduling

REDACTION = "m.room.redaction"


class RedactBody(msgspec.Struct):
    reason: str | None = None


class SendHandlers:
    def __init__(self, writer: RoomWriter, scheduling: Scheduling, guests: GuestRemoval, database: Database) -> None:
        self._writer = writer
        self._scheduling = scheduling
        self._guests = guests
        self._relations = RelationRefusals(database)
        self._database = database

    @endpoint(
        name="send_event",
        method="PUT",
        path="/_matrix/client/{version}/rooms/{roomId}/send/{eventType}/{txnId}",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        idempotent=True,
        spec="client-server-api/#put_matrixclientv3roomsroomidsendeventtypetxnid",
    )
    async def send_event(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/send/{eventType}/{txnId}. Guests may send (since v1.2: any type)."""
        if DELAY in request.query:
            return await self._scheduling.schedule_message(request)
        user, event_type = request.user, request.params["eventType"]
        content, key = request.json_object(), transaction_key(request)
        shown_to, sticky_ms = (user.device_id, request.params["txnId"]), self._scheduling.sticky_ms(request)

        async def send(room: LiveRoom) -> EventId:
            return await self.put(room, user, event_type, content, key=key, shown_to=shown_to, sticky_ms=sticky_ms)

        return json_response({"event_id": await self._writer.in_room(request.params["roomId"], send)})

    @endpoint(
        name="send_event_without_transaction",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/send/{eventType}",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        spec="deployed: bots written for the api/v1",
    )
    async def send_event_without_transaction(self, request: Request) -> Response:
        """POST /rooms/{roomId}/send/{eventType}: each request sends an event of its own.

        Not in the spec since r0. Old bots and shell scripts use it.
        """
        user, event_type, content = request.user, request.params["eventType"], request.json_object()
        key = secrets.token_bytes(32)

        async def send(room: LiveRoom) -> EventId:
            return await self.put(room, user, event_type, content, key=key, shown_to=(None, ""), sticky_ms=None)

        return json_response({"event_id": await self._writer.in_room(request.params["roomId"], send)})

    async def put(
        self,
        room: LiveRoom,
        user: Requester,
        event_type: str,
        content: dict[str, Any],
        *,
        key: bytes,
        shown_to: tuple[str | None, str],
        sticky_ms: int | None,
    ) -> EventId:
        """Send a message event, which may be a redaction, and return its id.

        key: of the client's transaction. shown_to: device and transaction id.
        """
        if event_type == REDACTION:
            if (answered := self._writer.answer_of(room, key)) is not None:
                return await answered
            redacts = content.get("redacts")
            if not isinstance(redacts, str):
                raise missing_param("A redaction names the event that it redacts, in redacts")
            return await self._redact(
                room, user, EventId(redacts), content, key=key, shown_to=shown_to, sticky_ms=sticky_ms
            )
        check_content(event_type, content)
        if (answered := self._writer.answer_of(room, key)) is not None:
            return await answered
        before = await self._relations.check(room, user.user_id, event_type, content, key)
        if before is not None:
            return before
        device, txn_id = shown_to
        draft = Draft(
            sender=user.user_id,
            type=event_type,
            state_key=None,
            content=content,
            device=device,
            txn_id=txn_id,
            sticky_ms=sticky_ms,
        )
        return (await self._writer.write(room, [draft], key))[-1]

    @endpoint(
        name="redact_event",
        method="PUT",
        path="/_matrix/client/{version}/rooms/{roomId}/redact/{eventId}/{txnId}",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        idempotent=True,
        spec="client-server-api/#put_matrixclientv3roomsroomidredacteventidtxnid",
    )
    async def redact_event(self, request: Request) -> Response:
        """PUT /rooms/{roomId}/redact/{eventId}/{txnId}"""
        body = request.decode(RedactBody, empty_ok=True)
        user, key = request.user, transaction_key(request)
        event_id = request.params["eventId"]
        content = {} if body.reason is None else {"reason": body.reason}

        shown_to = (user.device_id, request.params["txnId"])

        async def redact(room: LiveRoom) -> EventId:
            if (answered := self._writer.answer_of(room, key)) is not None:
                return await answered
            return await self._redact(room, user, event_id, content, key=key, shown_to=shown_to, sticky_ms=None)

        return json_response({"event_id": await self._writer.in_room(request.params["roomId"], redact)})

    async def _redact(
        self,
        room: LiveRoom,
        user: Requester,
        event_id: EventId,
        content: dict[str, Any],
        *,
        key: bytes,
        shown_to: tuple[str | None, str],
        sticky_ms: int | None,
    ) -> EventId:
        target = await self._target(room, user, event_id)
        device, txn_id = shown_to
        draft = Draft(
            sender=user.user_id,
            type=REDACTION,
            state_key=None,
            content=content,
            device=device,
            txn_id=txn_id,
            redacts=event_id,
            target=target,
            sticky_ms=sticky_ms,
        )
        access = room.state.entry(*GUEST_ACCESS)
        if access is not None and target.event_nid == access.event_nid:
            return (await self._guests.around(room, lambda: self._writer.write(room, [draft], key)))[-1]
        return (await self._writer.write(room, [draft], key))[-1]

    async def _target(self, room: LiveRoom, user: Requester, event_id: EventId) -> RedactionTarget:
        """Return the event to redact. Raises M_FORBIDDEN, M_NOT_FOUND, M_INVALID_PARAM for one of another room.

        The rules let a whole server redact its users' events. The client API lets a user redact their own events, and
        those of others with the power level `redact`.
        """
        if room.state.membership(user.user_id) != "join":
            raise forbidden("You are not in this room")
        target = room.state.pending_target(event_id)
        if target is None:
            stored = await get_event_by_id(self._database, room.room_nid, event_id)
            if stored is None:
                if await get_room_of_event(self._database, event_id) not in (None, room.room_id):
                    raise invalid_param("The event to redact is in another room")
                raise not_found("There is no such event in this room")
            target = RedactionTarget(stored.event_nid, stored.event_id, stored.sender)
        levels = room.state.power_levels
        if target.sender != user.user_id and levels.user_level(user.user_id) < levels.redact:
            raise forbidden("Your power level is too low to redact other people's events")
        return target
