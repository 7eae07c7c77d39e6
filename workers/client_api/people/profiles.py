"""Profiles of local users. Spec: client-server API, "Profiles".

A change of the display name or avatar also goes into the user's member event in every joined room (`MemberProfiles`)
and into their presence.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

import orjson

from replication.calls.fetches import AnswerFromElsewhere, ProfileElsewhere
from replication.calls.owner_calls import Ask
from shared.core.errors import MatrixError, bad_json, forbidden, invalid_param, missing_param, not_found
from shared.core.identifiers import UserId, check_user_id, server_of, within_bytes
from shared.http.endpoint import Auth, RateLimit, RoutingKey
from shared.http.guests import guest_refused
from shared.http.request import Request, Response, empty_response, json_response
from shared.http.serving import endpoint
from shared.storage.accounts.profiles import IN_MEMBER_EVENTS, delete_profile_field, get_profile, set_profile_field
from shared.storage.engine.pool import Database
from workers.client_api.people.elsewhere import ask_server
from workers.client_api.people.present_users import PresentUsers

MAX_PROFILE_BYTES = 65_535  # the spec: the whole profile must be under 64 KiB
MAX_DISPLAY_NAME_CHARS = 256
MAX_AVATAR_URL_CHARS = 1000
MAX_KEY_BYTES = 255
# The two old fields, or a namespaced name. Spec: appendices, "Common Namespaced Identifier Grammar".
_KEY = re.compile(r"displayname|avatar_url|[a-z][a-z0-9_-]*(\.[a-z0-9_-]+)+")


class MemberProfiles(Protocol):
    """The part of MemberProfileSender used here."""

    async def profile_changed(self, user_id: UserId) -> None: ...


class Profiles:
    def __init__(
        self,
        server_name: str,
        database: Database,
        members: MemberProfiles,
        present_users: PresentUsers | None,
        ask: Ask[ProfileElsewhere, AnswerFromElsewhere] | None,
    ) -> None:
        """present_users: None if presence is disabled. ask: asks other servers; None if this one talks to no others."""
        self._server_name = server_name
        self._ask = ask
        self._database = database
        self._members = members
        self._present_users = present_users

    @endpoint(
        name="get_profile",
        method="GET",
        path="/_matrix/client/{version}/profile/{userId}",
        api_v1=True,
        pool="client",
        auth=Auth.OPTIONAL,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3profileuserid",
    )
    async def get_profile(self, request: Request) -> Response:
        """GET /profile/{userId}. Raises M_NOT_FOUND."""
        return json_response(await self._profile(request))

    @endpoint(
        name="get_profile_field",
        method="GET",
        path="/_matrix/client/{version}/profile/{userId}/{keyName}",
        api_v1=True,
        pool="client",
        auth=Auth.OPTIONAL,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3profileuseridkeyname",
    )
    async def get_profile_field(self, request: Request) -> Response:
        """GET /profile/{userId}/{keyName}. Raises M_NOT_FOUND if there is no such user or field.

        `displayname` and `avatar_url` of a user without one are `{}`.
        """
        key = _check_key(request.params["keyName"])
        profile = await self._profile(request, key)
        if key in profile:
            return json_response({key: profile[key]})
        if key in IN_MEMBER_EVENTS:
            return json_response({})  # deployed clients take 404 for "no such user"
        raise not_found("This field of the profile is not set")

    @endpoint(
        name="set_profile_field",
        method="PUT",
        path="/_matrix/client/{version}/profile/{userId}/{keyName}",
        api_v1=True,
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#put_matrixclientv3profileuseridkeyname",
    )
    async def set_profile_field(self, request: Request) -> Response:
        """PUT /profile/{userId}/{keyName}.

        Raises M_FORBIDDEN for another user's profile, M_MISSING_PARAM, M_BAD_JSON, M_INVALID_PARAM, M_KEY_TOO_LARGE,
        M_PROFILE_TOO_LARGE.
        """
        user_id, key = _own_field(request)
        body = request.json_object()
        if key not in body:
            raise missing_param(f"Missing key: {key}")
        value = _check_value(key, body[key])
        if value is None and key in IN_MEMBER_EVENTS:
            return await self._delete(user_id, key)
        stored = await set_profile_field(self._database, user_id, key, orjson.dumps(value), MAX_PROFILE_BYTES)
        if not stored:
            raise MatrixError("M_PROFILE_TOO_LARGE", "The whole profile must be under 64 KiB")
        await self._announce(user_id, key)
        return empty_response()

    @endpoint(
        name="delete_profile_field",
        method="DELETE",
        path="/_matrix/client/{version}/profile/{userId}/{keyName}",
        pool="client",
        routing_key=RoutingKey.USER,
        rate_limit=RateLimit.ACCOUNT,
        spec="client-server-api/#delete_matrixclientv3profileuseridkeyname",
    )
    async def delete_profile_field(self, request: Request) -> Response:
        """DELETE /profile/{userId}/{keyName}. A field that is not set is no error."""
        return await self._delete(*_own_field(request))

    async def _delete(self, user_id: UserId, key: str) -> Response:
        await delete_profile_field(self._database, user_id, key)
        await self._announce(user_id, key)
        return empty_response()

    async def _announce(self, user_id: UserId, key: str) -> None:
        if key in IN_MEMBER_EVENTS:
            if self._present_users is not None:
                await self._present_users.profile_changed(user_id)
            await self._members.profile_changed(user_id)

    async def _profile(self, request: Request, field: str = "") -> Mapping[str, Any]:
        """Return the profile of the user in the path. field: the only one that is needed, "" for all."""
        user_id = check_user_id(request.params["userId"])
        server = server_of(user_id)
        if server != self._server_name:
            return await ask_server(request, self._ask, server, ProfileElsewhere(user_id, field))
        profile = await get_profile(self._database, user_id)
        if profile is None:
            raise not_found("There is no such profile")
        return profile


def _own_field(request: Request) -> tuple[UserId, str]:
    """Return the user and the field of their own profile.

    Raises M_FORBIDDEN for another user's profile, and M_GUEST_ACCESS_FORBIDDEN: guests may change nothing but their
    display name (spec: client-server API, "Guest Access").
    """
    if request.user.is_guest and request.params["keyName"] != "displayname":
        raise guest_refused()
    if request.params["userId"] != request.user.user_id:
        raise forbidden("Only the user themselves can change this profile")
    return request.user.user_id, _check_key(request.params["keyName"])


def _check_key(key: str) -> str:
    if not within_bytes(key, MAX_KEY_BYTES):
        raise MatrixError("M_KEY_TOO_LARGE", f"The name of a profile field must have at most {MAX_KEY_BYTES} bytes")
    if not _KEY.fullmatch(key):
        raise invalid_param("The name of a profile field must be displayname, avatar_url or a namespaced name")
    return key


def _check_value(key: str, value: Any) -> Any:
    """Return the value to store; None to delete the name or avatar, for which clients send "" or null."""
    if key == "displayname":
        if value is not None and not isinstance(value, str):
            raise bad_json("displayname must be a string")
        if value is not None and len(value) > MAX_DISPLAY_NAME_CHARS:
            raise invalid_param(f"displayname must have at most {MAX_DISPLAY_NAME_CHARS} characters")
        return value or None
    if key == "avatar_url":
        if value is not None and not isinstance(value, str):
            raise bad_json("avatar_url must be a string")
        # The URL is shown as it is and never fetched, so it need not be an mxc:// URI: bridges set others.
        if value and len(value) > MAX_AVATAR_URL_CHARS:
            raise invalid_param(f"avatar_url must have at most {MAX_AVATAR_URL_CHARS} characters")
        return value or None
    if key == "m.tz" and not isinstance(value, str):
        raise bad_json("m.tz must be a string")
    return value
