"""Room tags, kept as the room account data `m.tag`. Spec: client-server API, "Room Tagging"."""

from typing import Any

import orjson

from shared.core.errors import bad_json, invalid_param
from shared.core.identifiers import check_room_id, within_bytes
from shared.http.endpoint import RateLimit, RoutingKey
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.engine.pool import Database
from shared.storage.user_data.account_data import get_account_data
from workers.client_api.user_data.account_data import own_user_id
from workers.client_api.user_data.account_data_writer import AccountDataWriter

_TYPE = "m.tag"
_MAX_TAG_BYTES = 255  # the spec's limit
_MAX_TAGS = 1000  # in one room


class Tags:
    def __init__(self, database: Database, writer: AccountDataWriter) -> None:
        self._database = database
        self._writer = writer

    @endpoint(
        name="list_tags",
        method="GET",
        path="/_matrix/client/{version}/user/{userId}/rooms/{roomId}/tags",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3useruseridroomsroomidtags",
    )
    async def list_tags(self, request: Request) -> Response:
        """GET /user/{userId}/rooms/{roomId}/tags."""
        user_id, room_id = own_user_id(request), check_room_id(request.params["roomId"])
        entry = await get_account_data(self._database, user_id, room_id, _TYPE)
        return json_response({"tags": _tags(entry.json)})

    @endpoint(
        name="set_tag",
        method="PUT",
        path="/_matrix/client/{version}/user/{userId}/rooms/{roomId}/tags/{tag}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag",
    )
    async def set_tag(self, request: Request) -> Response:
        """PUT /user/{userId}/rooms/{roomId}/tags/{tag}. Raises M_BAD_JSON for an order that is not a number."""
        user_id, room_id = own_user_id(request), check_room_id(request.params["roomId"])
        tag = request.params["tag"]
        if not within_bytes(tag, _MAX_TAG_BYTES):
            raise invalid_param(f"A tag must have at most {_MAX_TAG_BYTES} bytes")
        body = request.json_object(empty_ok=True)
        order = body.get("order")
        if order is not None and (isinstance(order, bool) or not isinstance(order, int | float)):
            raise bad_json("order must be a number")

        def with_tag(present: bytes | None) -> bytes | None:
            tags = {**_tags(present), tag: body}
            if len(tags) > _MAX_TAGS:
                raise invalid_param(f"A room may have at most {_MAX_TAGS} tags")
            return orjson.dumps({"tags": tags})

        await self._writer.change(user_id, room_id, _TYPE, with_tag)
        return empty_response()

    @endpoint(
        name="delete_tag",
        method="DELETE",
        path="/_matrix/client/{version}/user/{userId}/rooms/{roomId}/tags/{tag}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag",
    )
    async def delete_tag(self, request: Request) -> Response:
        """DELETE /user/{userId}/rooms/{roomId}/tags/{tag}. An unknown tag is no error."""
        user_id, room_id = own_user_id(request), check_room_id(request.params["roomId"])
        tag = request.params["tag"]

        def without_tag(present: bytes | None) -> bytes | None:
            tags = _tags(present)
            if tag not in tags:
                return None
            return orjson.dumps({"tags": {name: value for name, value in tags.items() if name != tag}})

        await self._writer.change(user_id, room_id, _TYPE, without_tag)
        return empty_response()


def _tags(json: bytes | None) -> dict[str, Any]:
    """Return the tags of an `m.tag` entry. Clients can store anything there through the account data endpoint."""
    tags = orjson.loads(json).get("tags") if json is not None else None
    return tags if isinstance(tags, dict) else {}
