"""Account data, global and per room. Spec: client-server API, "Client Config"."""

import orjson

from shared.core.errors import MatrixError, forbidden, invalid_param, not_found
from shared.core.identifiers import RoomId, UserId, check_room_id, within_bytes
from shared.core.rows import GLOBAL
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database
from shared.storage.user_data.account_data import get_account_data
from workers.client_api.user_data.account_data_writer import AccountDataWriter
from workers.client_api.user_data.push_rules_writer import PushRulesWriter

PUSH_RULES = "m.push_rules"
FULLY_READ = "m.fully_read"
_MAX_TYPE_BYTES = 255
#: Types that only the server writes.
_MANAGED = (FULLY_READ, PUSH_RULES)


class AccountData:
    def __init__(self, database: Database, writer: AccountDataWriter, push_rules: PushRulesWriter) -> None:
        self._database = database
        self._writer = writer
        self._push_rules = push_rules

    @endpoint(
        name="get_account_data",
        method="GET",
        path="/_matrix/client/{version}/user/{userId}/account_data/{type}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3useruseridaccount_datatype",
    )
    async def get_account_data(self, request: Request) -> Response:
        """GET /user/{userId}/account_data/{type}. Raises M_NOT_FOUND."""
        user_id = own_user_id(request)
        if request.params["type"] == PUSH_RULES:
            return json_response(await self._push_rules.get_ruleset(user_id))
        return await self._get(user_id, GLOBAL, request.params["type"])

    @endpoint(
        name="set_account_data",
        method="PUT",
        path="/_matrix/client/{version}/user/{userId}/account_data/{type}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3useruseridaccount_datatype",
    )
    async def set_account_data(self, request: Request) -> Response:
        """PUT /user/{userId}/account_data/{type}. Raises M_BAD_JSON, 405 for types that the server manages."""
        return await self._set(request, GLOBAL)

    @endpoint(
        name="get_room_account_data",
        method="GET",
        path="/_matrix/client/{version}/user/{userId}/rooms/{roomId}/account_data/{type}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3useruseridroomsroomidaccount_datatype",
    )
    async def get_room_account_data(self, request: Request) -> Response:
        """GET /user/{userId}/rooms/{roomId}/account_data/{type}. Raises M_NOT_FOUND."""
        return await self._get(own_user_id(request), check_room_id(request.params["roomId"]), request.params["type"])

    @endpoint(
        name="set_room_account_data",
        method="PUT",
        path="/_matrix/client/{version}/user/{userId}/rooms/{roomId}/account_data/{type}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3useruseridroomsroomidaccount_datatype",
    )
    async def set_room_account_data(self, request: Request) -> Response:
        """PUT /user/{userId}/rooms/{roomId}/account_data/{type}."""
        return await self._set(request, check_room_id(request.params["roomId"]))

    async def _get(self, user_id: UserId, room_id: RoomId, type_: str) -> Response:
        entry = await get_account_data(self._database, user_id, room_id, type_)
        if entry.json is None:
            raise not_found("There is no account data of this type")
        return Response(entry.json)

    async def _set(self, request: Request, room_id: RoomId) -> Response:
        user_id, type_ = own_user_id(request), request.params["type"]
        if type_ in _MANAGED:
            raise MatrixError("M_BAD_JSON", f"{type_} cannot be set through this endpoint", 405)
        if not within_bytes(type_, _MAX_TYPE_BYTES):
            raise invalid_param(f"The type must have at most {_MAX_TYPE_BYTES} bytes")
        await self._writer.set(user_id, room_id, type_, orjson.dumps(request.json_object()))
        return empty_response()


def own_user_id(request: Request) -> UserId:
    """Return the user id of the path. Raises M_FORBIDDEN if it is not the requester's."""
    if request.params["userId"] != request.user.user_id:
        raise forbidden("The path names another user")
    return request.user.user_id
