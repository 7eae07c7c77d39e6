"""The endpoints that change a membership. Spec: client-server API, "Room membership", "Knocking on rooms"."""

from collections.abc import Awaitable, Callable
from typing import Protocol
from urllib.parse import quote

import msgspec

from replication.calls.rooms import LEAVE_CLOSED_ACCOUNT, MemberLeaving
from shared.core.errors import MatrixError, forbidden, missing_param, not_found
from shared.core.identifiers import RoomId, UserId, check_room_alias, check_user_id, server_of
from shared.core.slots import slot_of
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.internal_calls import EMPTY, Empty
from shared.http.request import Request, Requester, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.pool import Database
from shared.storage.rooms.aliases import get_room_of_alias
from shared.storage.rooms.memberships import forget_room
from workers.event_persister.members.member_changes import AUTHORISED_VIA, MemberChanges
from workers.event_persister.room.live_room import LiveRoom
from workers.event_persister.room_writer import RoomWriter


class ReasonBody(msgspec.Struct):
    reason: str | None = None


class ThirdPartySigned(msgspec.Struct):
    """The proof of a third-party invite. The JSON is used as it was signed: this only checks that it is complete."""

    sender: UserId
    mxid: str
    token: str
    signatures: dict[str, dict[str, str]]


class JoinBody(msgspec.Struct):
    reason: str | None = None
    third_party_signed: ThirdPartySigned | None = None


class TargetBody(msgspec.Struct):
    user_id: UserId
    reason: str | None = None


class InviteBody(msgspec.Struct):
    user_id: UserId | None = None
    reason: str | None = None
    id_server: str | None = None
    id_access_token: str | None = None
    medium: str | None = None
    address: str | None = None


class Forward(Protocol):
    def __call__(
        self, request: Request, kind: str, slot: int, *, path: bytes | None = None
    ) -> Awaitable[Response | None]:
        """Pass the request on to the slot's owner. None: this process is the owner."""
        ...


#: Keys of a join's request that are not copied into the member event: they have a meaning of their own, or only a
#: server may set them. All others are: bots and bridges mark their joins that way.
_NOT_OF_CLIENTS = frozenset({"reason", "third_party_signed", "third_party_invite", "membership", AUTHORISED_VIA})

#: A change of a user's membership: (room, requester, target, reason).
Change = Callable[[LiveRoom, Requester, UserId, str | None], Awaitable[None]]


class MembershipHandlers:
    def __init__(
        self,
        *,
        writer: RoomWriter,
        changes: MemberChanges,
        forward: Forward,
        database: Database,
        write: FencedWrite,
        server_name: str,
    ) -> None:
        self._writer = writer
        self._changes = changes
        self._forward = forward
        self._database = database
        self._write = write
        self._server_name = server_name

    @endpoint(
        name="join_room",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/join",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.JOIN,
        spec="client-server-api/#post_matrixclientv3roomsroomidjoin",
    )
    async def join_room(self, request: Request) -> Response:
        """POST /rooms/{roomId}/join"""
        return await self._join(request, request.params["roomId"])

    @endpoint(
        name="join_room_by_id_or_alias",
        method="POST",
        path="/_matrix/client/{version}/join/{roomIdOrAlias}",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM_OR_ALIAS,
        rate_limit=RateLimit.JOIN,
        spec="client-server-api/#post_matrixclientv3joinroomidoralias",
    )
    async def join_room_by_id_or_alias(self, request: Request) -> Response:
        """POST /join/{roomIdOrAlias}"""
        room_id, elsewhere = await self._resolve(request, b"join")
        return elsewhere or await self._join(request, room_id)

    @endpoint(
        name="knock_room",
        method="POST",
        path="/_matrix/client/{version}/knock/{roomIdOrAlias}",
        pool="rooms",
        routing_key=RoutingKey.ROOM_OR_ALIAS,
        rate_limit=RateLimit.JOIN,
        spec="client-server-api/#post_matrixclientv3knockroomidoralias",
    )
    async def knock_room(self, request: Request) -> Response:
        """POST /knock/{roomIdOrAlias}"""
        body = request.decode(ReasonBody, empty_ok=True)
        room_id, elsewhere = await self._resolve(request, b"knock")
        if elsewhere is not None:
            return elsewhere
        await self._writer.in_room(
            room_id, lambda room: self._changes.knock(room, request.user, body.reason), absent=_unknown_room()
        )
        return json_response({"room_id": room_id})

    @endpoint(
        name="leave_room",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/leave",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        spec="client-server-api/#post_matrixclientv3roomsroomidleave",
    )
    async def leave_room(self, request: Request) -> Response:
        """POST /rooms/{roomId}/leave"""
        body = request.decode(ReasonBody, empty_ok=True)
        await self._writer.in_room(
            request.params["roomId"], lambda room: self._changes.leave(room, request.user.user_id, body.reason)
        )
        return empty_response()

    @endpoint(
        name="forget_room",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/forget",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        spec="client-server-api/#post_matrixclientv3roomsroomidforget",
    )
    async def forget_room(self, request: Request) -> Response:
        """POST /rooms/{roomId}/forget. The user must have left the room, or been removed from it."""
        user_id = request.user.user_id

        async def forget(room: LiveRoom) -> None:
            entry = room.state.entry("m.room.member", user_id)
            if entry is None:
                raise forbidden("You were never in this room")
            await self._writer.settled(room, entry)
            if entry.membership not in ("leave", "ban") or not await forget_room(self._write, room.room_nid, user_id):
                raise MatrixError("M_UNKNOWN", "You have not left this room", 400)

        await self._writer.in_room(request.params["roomId"], forget, absent=_unknown_room())
        return empty_response()

    @endpoint(
        name="invite_user",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/invite",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.INVITE,
        spec="client-server-api/#post_matrixclientv3roomsroomidinvite",
    )
    async def invite_user(self, request: Request) -> Response:
        """POST /rooms/{roomId}/invite, by user id or by third-party identifier."""
        body = request.decode(InviteBody)
        if body.user_id is None:
            if body.medium is None or body.address is None or body.id_server is None:
                raise missing_param("Name the user to invite: user_id, or id_server, medium and address")
            raise no_identity_server()
        target = check_user_id(body.user_id)
        await self._writer.in_room(
            request.params["roomId"],
            lambda room: self._changes.invite(room, request.user, target, body.reason),
        )
        return empty_response()

    @endpoint(
        name="kick_user",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/kick",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        spec="client-server-api/#post_matrixclientv3roomsroomidkick",
    )
    async def kick_user(self, request: Request) -> Response:
        """POST /rooms/{roomId}/kick"""
        return await self._change(request, self._changes.kick)

    @endpoint(
        name="ban_user",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/ban",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        spec="client-server-api/#post_matrixclientv3roomsroomidban",
    )
    async def ban_user(self, request: Request) -> Response:
        """POST /rooms/{roomId}/ban"""
        return await self._change(request, self._changes.ban)

    @endpoint(
        name="unban_user",
        method="POST",
        path="/_matrix/client/{version}/rooms/{roomId}/unban",
        api_v1=True,
        pool="rooms",
        routing_key=RoutingKey.ROOM,
        rate_limit=RateLimit.MESSAGE,
        spec="client-server-api/#post_matrixclientv3roomsroomidunban",
    )
    async def unban_user(self, request: Request) -> Response:
        """POST /rooms/{roomId}/unban"""
        return await self._change(request, self._changes.unban)

    @LEAVE_CLOSED_ACCOUNT.handler
    async def leave_closed_account(self, room_id: RoomId, leaving: MemberLeaving) -> Empty:
        """Let the user of a closed account leave. No event is sent for a user who is not in the room."""
        user_id = leaving.user_id

        async def leave(room: LiveRoom) -> None:
            if room.state.membership(user_id) in ("join", "invite", "knock"):
                await self._changes.leave(room, user_id, None)

        await self._writer.in_room(room_id, leave, absent=_unknown_room())
        return EMPTY

    async def _change(self, request: Request, change: Change) -> Response:
        body = request.decode(TargetBody)
        target = check_user_id(body.user_id)
        await self._writer.in_room(
            request.params["roomId"], lambda room: change(room, request.user, target, body.reason)
        )
        return empty_response()

    async def _join(self, request: Request, room_id: RoomId) -> Response:
        body = request.decode(JoinBody, empty_ok=True)
        signed = None
        if body.third_party_signed is not None:
            signed = request.json_object()["third_party_signed"]
            signed = {key: value for key, value in signed.items() if key != "sender"}  # not part of the signed object
        given = request.json_object(empty_ok=True)
        further = {key: value for key, value in given.items() if key not in _NOT_OF_CLIENTS}
        await self._writer.in_room(
            room_id,
            lambda room: self._changes.join(room, request.user, reason=body.reason, signed=signed, further=further),
            absent=_unknown_room(),
        )
        return json_response({"room_id": room_id})

    async def _resolve(self, request: Request, operation: bytes) -> tuple[RoomId, Response | None]:
        """Return the room id, and the owner's answer if the room is not ours.

        A room id in the path was routed by its slot already. An alias reaches any persister.
        """
        text = request.params["roomIdOrAlias"]
        if not text.startswith("#"):
            return RoomId(text), None
        alias = check_room_alias(text)
        room_id = None
        if server_of(alias) == self._server_name:
            room_id = await get_room_of_alias(self._database, alias)
        if room_id is None:
            raise not_found("There is no such room alias on this server")
        path = b"/_matrix/client/v3/" + operation + b"/" + quote(room_id, safe="").encode()
        return room_id, await self._forward(request, "rooms", slot_of(room_id), path=path)


def no_identity_server() -> MatrixError:
    """Return the error for invites by third-party identifier. Spec: client-server API, "Third-party invites"."""
    return MatrixError("M_SERVER_NOT_TRUSTED", "This server uses no identity server", 400)


def _unknown_room() -> MatrixError:
    return not_found("There is no such room on this server, and it cannot join rooms of other servers yet")
