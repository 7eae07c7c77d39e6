"""Room aliases of this server, published rooms, and the list of joined rooms.

Spec: client-server API, "Room aliases", "Published room directory".
"""

from typing import Literal

import msgspec
import orjson

from replication.calls.fetches import AliasElsewhere, AnswerFromElsewhere
from replication.calls.owner_calls import Ask
from replication.calls.rooms import AliasRemoved, AliasToRemove
from shared.core.errors import MatrixError, RemoteServerError, forbidden, invalid_param, not_found
from shared.core.events.event import parse_event
from shared.core.events.readers import power_levels_of
from shared.core.identifiers import (
    RoomId,
    UserId,
    check_room_id,
    is_room_id_of_hash,
    is_room_id_with_server,
    is_server_name,
    parse_room_alias,
)
from shared.core.room_versions import get_room_version
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Requester, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.operations.alias_quota import check_alias_quota
from shared.operations.quotas import UserQuotas
from shared.runtime.clock import Clock
from shared.storage.engine.pool import Database
from shared.storage.rooms import aliases
from shared.storage.rooms.aliases import Alias, UserInRoom
from workers.client_api.people.elsewhere import ask_server

_CANONICAL_ALIAS, _CREATE, _POWER_LEVELS = "m.room.canonical_alias", "m.room.create", "m.room.power_levels"
_HISTORY_VISIBILITY = "m.room.history_visibility"
_MAX_SERVERS = 20  # in an answer: to join, a client needs few


class SetAliasBody(msgspec.Struct):
    room_id: RoomId


class VisibilityBody(msgspec.Struct):
    visibility: Literal["public", "private"] = "public"


class Directory:
    def __init__(
        self,
        server_name: str,
        database: Database,
        remove_alias: Ask[AliasToRemove, AliasRemoved],
        clock: Clock,
        quotas: UserQuotas,
        ask: Ask[AliasElsewhere, AnswerFromElsewhere] | None,
    ) -> None:
        """remove_alias: removes an alias from the canonical and alternative aliases of a room.

        ask: asks other servers; None if this one talks to no others.
        """
        self._ask = ask
        self._server_name = server_name
        self._database = database
        self._remove_alias = remove_alias
        self._quotas = quotas
        self._clock = clock

    @endpoint(
        name="get_room_by_alias",
        method="GET",
        path="/_matrix/client/{version}/directory/room/{roomAlias}",
        api_v1=True,
        pool="client",
        auth=Auth.OPTIONAL,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3directoryroomroomalias",
    )
    async def get_room_by_alias(self, request: Request) -> Response:
        """GET /directory/room/{roomAlias}. Raises M_INVALID_PARAM, M_NOT_FOUND."""
        text = request.params["roomAlias"]
        server = parse_room_alias(text)[1]
        if server != self._server_name:
            return await self._ask_elsewhere(request, server, text)
        alias = await self._find(text)
        others = await aliases.list_other_servers(self._database, alias.room_nid, _MAX_SERVERS)
        return json_response({"room_id": alias.room_id, "servers": [self._server_name, *others]})

    @endpoint(
        name="set_room_alias",
        method="PUT",
        path="/_matrix/client/{version}/directory/room/{roomAlias}",
        api_v1=True,
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3directoryroomroomalias",
    )
    async def set_room_alias(self, request: Request) -> Response:
        """PUT /directory/room/{roomAlias}, by any member of the room.

        Raises 409 M_UNKNOWN when it exists, M_USER_LIMIT_EXCEEDED.
        """
        text = request.params["roomAlias"]
        localpart, server = parse_room_alias(text)
        if server != self._server_name or not localpart:
            raise invalid_param(f"The alias must be #name:{self._server_name}")
        user_id = request.user.user_id
        room_id = check_room_id(request.decode(SetAliasBody).room_id)
        room = await aliases.get_user_in_room(self._database, room_id, user_id)
        if room is None or room.membership != "join":
            raise forbidden("Only members of the room can create an alias for it")
        await check_alias_quota(self._database, self._quotas, user_id)
        now_ms = self._clock.now_ms()
        if not await aliases.create_alias(self._database, text, room.room_nid, user_id, now_ms):
            raise MatrixError("M_UNKNOWN", "The alias already exists", 409)
        return empty_response()

    @endpoint(
        name="delete_room_alias",
        method="DELETE",
        path="/_matrix/client/{version}/directory/room/{roomAlias}",
        api_v1=True,
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#delete_matrixclientv3directoryroomroomalias",
    )
    async def delete_room_alias(self, request: Request) -> Response:
        """DELETE /directory/room/{roomAlias}, by its creator, members who may set the canonical alias, and admins.

        The alias is also removed from m.room.canonical_alias if the user may set it.
        """
        text = request.params["roomAlias"]
        alias = await self._find(text)
        if not await self._may_delete(request.user, alias):
            raise forbidden("You may not delete this alias")
        # Before the deletion: if this fails, the client repeats the request.
        if await self._is_canonical(text, alias.room_nid):
            await self._remove_alias(alias.room_id, AliasToRemove(request.user.user_id, text))
        await aliases.delete_alias(self._database, text, alias.room_nid)
        return empty_response()

    @endpoint(
        name="list_room_aliases",
        method="GET",
        path="/_matrix/client/{version}/rooms/{roomId}/aliases",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3roomsroomidaliases",
    )
    async def list_room_aliases(self, request: Request) -> Response:
        """GET /rooms/{roomId}/aliases, for members, and for everyone if the history is world-readable."""
        room_id = check_room_id(request.params["roomId"])
        room = await aliases.get_user_in_room(self._database, room_id, request.user.user_id)
        if room is None or not (room.membership == "join" or await self._world_readable(room.room_nid)):
            raise forbidden("You are not in this room")
        return json_response({"aliases": await aliases.list_aliases(self._database, room.room_nid)})

    @endpoint(
        name="get_room_visibility",
        method="GET",
        path="/_matrix/client/{version}/directory/list/room/{roomId}",
        api_v1=True,
        pool="client",
        auth=Auth.OPTIONAL,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3directorylistroomroomid",
    )
    async def get_room_visibility(self, request: Request) -> Response:
        """GET /directory/list/room/{roomId}. Raises M_NOT_FOUND, M_INVALID_PARAM."""
        published = await aliases.is_published(self._database, check_room_id(request.params["roomId"]))
        if published is None:
            raise not_found("There is no such room")
        return json_response({"visibility": "public" if published else "private"})

    @endpoint(
        name="set_room_visibility",
        method="PUT",
        path="/_matrix/client/{version}/directory/list/room/{roomId}",
        api_v1=True,
        pool="client",
        rate_limit=RateLimit.ACCOUNT,
        idempotent=True,
        spec="client-server-api/#put_matrixclientv3directorylistroomroomid",
    )
    async def set_room_visibility(self, request: Request) -> Response:
        """PUT /directory/list/room/{roomId}, by members who may set the canonical alias, and admins."""
        room_id = check_room_id(request.params["roomId"])
        published = request.decode(VisibilityBody, empty_ok=True).visibility == "public"
        room = await aliases.get_user_in_room(self._database, room_id, request.user.user_id)
        if room is None:
            raise not_found("There is no such room")
        if not request.user.is_admin and not await self._may_set_canonical_alias(request.user.user_id, room):
            raise forbidden("You may not change whether this room is in the directory")
        await aliases.set_published(self._database, room.room_nid, published)
        return empty_response()

    @endpoint(
        name="list_joined_rooms",
        method="GET",
        path="/_matrix/client/{version}/joined_rooms",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3joined_rooms",
    )
    async def list_joined_rooms(self, request: Request) -> Response:
        """GET /joined_rooms."""
        rooms = await aliases.list_joined_rooms(self._database, request.user.user_id)
        return json_response({"joined_rooms": rooms})

    async def _ask_elsewhere(self, request: Request, server: str, alias: str) -> Response:
        answer = await ask_server(request, self._ask, server, AliasElsewhere(alias))
        room_id, servers = answer.get("room_id"), answer.get("servers")
        if not isinstance(room_id, str) or not (is_room_id_with_server(room_id) or is_room_id_of_hash(room_id)):
            raise RemoteServerError(f"{server} answered without a room id")
        given = servers if isinstance(servers, list) else []
        named = [each for each in given if isinstance(each, str) and is_server_name(each)]
        # The server itself first: it knows the room, whatever it says.
        return json_response({"room_id": room_id, "servers": list(dict.fromkeys([server, *named]))[:_MAX_SERVERS]})

    async def _find(self, text: str) -> Alias:
        _, server = parse_room_alias(text)
        alias = await aliases.get_alias(self._database, text) if server == self._server_name else None
        if alias is None:
            raise not_found("There is no such alias")
        return alias

    async def _may_delete(self, user: Requester, alias: Alias) -> bool:
        if user.user_id == alias.creator or user.is_admin:
            return True
        room = await aliases.get_user_in_room(self._database, alias.room_id, user.user_id)
        return room is not None and await self._may_set_canonical_alias(user.user_id, room)

    async def _is_canonical(self, text: str, room_nid: int) -> bool:
        """Return True if m.room.canonical_alias names the alias."""
        state = await aliases.get_state_with_empty_key(self._database, room_nid, (_CANONICAL_ALIAS,))
        content = orjson.loads(state[_CANONICAL_ALIAS])["content"] if _CANONICAL_ALIAS in state else {}
        others = content.get("alt_aliases")
        return bool(content.get("alias") == text or (isinstance(others, list) and text in others))

    async def _may_set_canonical_alias(self, user_id: UserId, room: UserInRoom) -> bool:
        """Return True if the user is in the room and may set its canonical alias."""
        if room.membership != "join":
            return False
        state = await aliases.get_state_with_empty_key(self._database, room.room_nid, (_CREATE, _POWER_LEVELS))
        version = get_room_version(room.room_version)
        events = {kind: parse_event(version, json) for kind, json in state.items()}
        levels = power_levels_of(version, events[_CREATE], events.get(_POWER_LEVELS))
        return levels.user_level(user_id) >= levels.event_level(_CANONICAL_ALIAS, is_state=True)

    async def _world_readable(self, room_nid: int) -> bool:
        state = await aliases.get_state_with_empty_key(self._database, room_nid, (_HISTORY_VISIBILITY,))
        json = state.get(_HISTORY_VISIBILITY)
        content = orjson.loads(json).get("content") if json is not None else None
        return isinstance(content, dict) and content.get("history_visibility") == "world_readable"
