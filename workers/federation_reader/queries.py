"""What other servers ask about our users and aliases. Spec: server-server API, "Querying for information"."""

from shared.core.errors import invalid_param, not_found
from shared.core.identifiers import check_user_id, parse_room_alias, parse_user_id
from shared.http.endpoint import Auth, RateLimit, RoutingKey
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint
from shared.storage.accounts.profiles import IN_MEMBER_EVENTS, get_profile
from shared.storage.engine.pool import Database
from shared.storage.rooms import aliases

_MAX_SERVERS = 20  # in an answer: to join, a server needs few


class Queries:
    def __init__(self, server_name: str, database: Database) -> None:
        self._server_name = server_name
        self._database = database

    @endpoint(
        name="query_profile",
        method="GET",
        path="/_matrix/federation/v1/query/profile",
        pool="federation",
        routing_key=RoutingKey.ORIGIN,
        auth=Auth.SERVER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="server-server-api/#get_matrixfederationv1queryprofile",
    )
    async def query_profile(self, request: Request) -> Response:
        """Return the profile of one of our users, or one field. Raises M_INVALID_PARAM, M_NOT_FOUND.

        A field that is not set is left out.
        """
        user_id = check_user_id(request.query_required("user_id"))
        if parse_user_id(user_id)[1] != self._server_name:
            raise invalid_param(f"The user is not of this server, {self._server_name}")
        profile = await get_profile(self._database, user_id)
        if profile is None:
            raise not_found("There is no such user")
        field = request.query_text("field")
        if field is None:
            return json_response(profile)
        if field not in profile and field not in IN_MEMBER_EVENTS:
            raise not_found("This field of the profile is not set")
        return json_response({field: profile[field]} if field in profile else {})

    @endpoint(
        name="query_room_alias",
        method="GET",
        path="/_matrix/federation/v1/query/directory",
        pool="federation",
        routing_key=RoutingKey.ORIGIN,
        auth=Auth.SERVER,
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="server-server-api/#get_matrixfederationv1querydirectory",
    )
    async def query_room_alias(self, request: Request) -> Response:
        """Return the room of one of our aliases, and servers in it. Raises M_INVALID_PARAM, M_NOT_FOUND."""
        text = request.query_required("room_alias")
        if parse_room_alias(text)[1] != self._server_name:
            raise invalid_param(f"The alias is not of this server, {self._server_name}")
        alias = await aliases.get_alias(self._database, text)
        if alias is None:
            raise not_found("There is no such alias")
        others = await aliases.list_other_servers(self._database, alias.room_nid, _MAX_SERVERS)
        return json_response({"room_id": alias.room_id, "servers": [self._server_name, *others]})
