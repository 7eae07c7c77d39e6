"""Documents about this server: versions, capabilities, well-known documents. They are fixed at start."""

from typing import Any

from shared.config.sections import Config, Contact, DelayedEvents
from shared.core.errors import not_found
from shared.core.room_versions import ROOM_VERSIONS
from shared.http.endpoint import Auth, RateLimit
from shared.http.request import Request, Response, json_response
from shared.http.serving import endpoint

#: The spec versions whose features this server has, as far as clients switch by them. Later versions need
#: asynchronous uploads (v1.7), authenticated media (v1.11) and more.
SPEC_VERSIONS = ("v1.1", "v1.2", "v1.3", "v1.4", "v1.5", "v1.6")
#: Implemented features of later versions, under the names that clients check.
UNSTABLE_FEATURES = {
    "org.matrix.msc2285.stable": True,  # private read receipts (v1.4)
    "org.matrix.simplified_msc3575": True,  # sliding sync in its deployed form; the merged one is at /v4/sync
    "uk.tcpip.msc4133.stable": True,  # profile fields by their stable names (v1.16)
    "org.matrix.msc3981": True,  # relations of relations (v1.10); clients then use the parameter's unstable name
    "org.matrix.msc3874": True,  # filters by relationship
    "com.beeper.msc4169": True,  # redactions by /send in every room version (v1.18)
}


class ServerFacts:
    def __init__(self, config: Config) -> None:
        delays = config.delayed_events.max_scheduled > 0
        # ".stable": the MSC is accepted, so clients may use its stable paths. No spec version has it yet.
        delayed = dict.fromkeys(("org.matrix.msc4140", "org.matrix.msc4140.stable"), delays)
        switched = {
            "org.matrix.msc4306": config.experimental.msc4306_thread_subscriptions,
            "org.matrix.msc4354": config.experimental.msc4354_sticky_events,
        }
        features = {**UNSTABLE_FEATURES, **delayed, **switched}
        self._versions = {"versions": list(SPEC_VERSIONS), "unstable_features": features}
        self._capabilities = _capabilities(config.rooms.default_version, config.delayed_events)
        # Clients append paths to the base URL, so it has no slash at the end.
        self._client = {"m.homeserver": {"base_url": config.public_base_url.rstrip("/")}}
        delegate = config.federation.well_known_server
        self._server = {"m.server": delegate} if delegate is not None else None
        self._support = _support(config)

    @endpoint(
        name="get_versions",
        method="GET",
        path="/_matrix/client/versions",
        pool="client",
        auth=Auth.OPTIONAL,
        idempotent=True,
        spec="client-server-api/#get_matrixclientversions",
    )
    async def get_versions(self, request: Request) -> Response:
        """GET /_matrix/client/versions."""
        return json_response(self._versions)

    @endpoint(
        name="get_capabilities",
        method="GET",
        path="/_matrix/client/{version}/capabilities",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3capabilities",
    )
    async def get_capabilities(self, request: Request) -> Response:
        """GET /capabilities."""
        return json_response({"capabilities": self._capabilities})

    @endpoint(
        name="get_well_known_client",
        method="GET",
        path="/.well-known/matrix/client",
        pool="client",
        auth=Auth.NONE,
        idempotent=True,
        spec="client-server-api/#getwell-knownmatrixclient",
    )
    async def get_well_known_client(self, request: Request) -> Response:
        """GET /.well-known/matrix/client. Spec: client-server API, "Well-known URI"."""
        return json_response(self._client)

    @endpoint(
        name="get_well_known_server",
        method="GET",
        path="/.well-known/matrix/server",
        pool="client",
        auth=Auth.NONE,
        idempotent=True,
        spec="server-server-api/#getwell-knownmatrixserver",
    )
    async def get_well_known_server(self, request: Request) -> Response:
        """GET /.well-known/matrix/server. Spec: server-server API, "Resolving server names". Raises M_NOT_FOUND."""
        return _or_not_found(self._server)

    @endpoint(
        name="get_well_known_support",
        method="GET",
        path="/.well-known/matrix/support",
        pool="client",
        auth=Auth.NONE,
        idempotent=True,
        spec="client-server-api/#getwell-knownmatrixsupport",
    )
    async def get_well_known_support(self, request: Request) -> Response:
        """GET /.well-known/matrix/support. Raises M_NOT_FOUND if it is not configured."""
        return _or_not_found(self._support)

    @endpoint(
        name="get_turn_server",
        method="GET",
        path="/_matrix/client/{version}/voip/turnServer",
        api_v1=True,
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3voipturnserver",
    )
    async def get_turn_server(self, request: Request) -> Response:
        """GET /voip/turnServer: an empty object, since there is no TURN server."""
        return json_response({})

    @endpoint(
        name="list_third_party_protocols",
        method="GET",
        path="/_matrix/client/{version}/thirdparty/protocols",
        pool="client",
        rate_limit=RateLimit.READ,
        idempotent=True,
        spec="client-server-api/#get_matrixclientv3thirdpartyprotocols",
    )
    async def list_third_party_protocols(self, request: Request) -> Response:
        """GET /thirdparty/protocols: none without application services."""
        return json_response({})


def _capabilities(default_version: str, delayed: DelayedEvents) -> dict[str, Any]:
    limits = {"max_delay_ms": delayed.max_delay_s * 1000, "max_scheduled": delayed.max_scheduled}
    return {
        **dict.fromkeys(("m.delayed_events", "org.matrix.msc4140.delayed_events"), limits),
        "m.change_password": {"enabled": True},
        "m.room_versions": {"default": default_version, "available": dict.fromkeys(ROOM_VERSIONS, "stable")},
        "m.profile_fields": {"enabled": True},
        "m.set_displayname": {"enabled": True},
        "m.set_avatar_url": {"enabled": True},
        "m.3pid_changes": {"enabled": False},
        "m.get_login_token": {"enabled": False},
        "m.forget_forced_upon_leave": {"enabled": False},
    }


def _support(config: Config) -> dict[str, Any] | None:
    support: dict[str, Any] = {}
    if config.support.contacts:
        support["contacts"] = [_contact(contact) for contact in config.support.contacts]
    if config.support.support_page is not None:
        support["support_page"] = config.support.support_page
    return support or None


def _contact(contact: Contact) -> dict[str, str]:
    shown = {"role": contact.role}
    if contact.matrix_id is not None:
        shown["matrix_id"] = contact.matrix_id
    if contact.email_address is not None:
        shown["email_address"] = contact.email_address
    return shown


def _or_not_found(document: dict[str, Any] | None) -> Response:
    if document is None:
        raise not_found("This document is not configured on this server")
    return json_response(document)
