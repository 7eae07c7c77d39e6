"""Guests may call a closed list of endpoints, on every worker. Spec: client-server API, "Guest Access"."""

import re
from typing import Any

import orjson
from prometheus_client import CollectorRegistry

from deploy.endpoint_table import all_endpoints
from shared.config.sections import Limits
from shared.core.identifiers import UserId
from shared.http.endpoint import Auth, Endpoint, paths_of
from shared.http.guests import GUESTS_MAY
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Requester, Response, empty_response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics

_OF_THE_SPEC = (
    "GET /rooms/{roomId}/state",
    "GET /rooms/{roomId}/context/{eventId}",
    "GET /rooms/{roomId}/event/{eventId}",
    "GET /rooms/{roomId}/state/{eventType}/{stateKey?}",
    "GET /rooms/{roomId}/messages",
    "GET /rooms/{roomId}/members",
    "GET /rooms/{roomId}/initialSync",
    "GET /sync",
    "GET /events",
    "POST /rooms/{roomId}/join",
    "POST /rooms/{roomId}/leave",
    "PUT /rooms/{roomId}/send/{eventType}/{txnId}",
    "PUT /rooms/{roomId}/state/{eventType}/{stateKey?}",
    "PUT /sendToDevice/{eventType}/{txnId}",
    "PUT /profile/{userId}/{keyName}",
    "DELETE /profile/{userId}/{keyName}",
    "GET /devices",
    "GET /devices/{deviceId}",
    "PUT /devices/{deviceId}",
    "GET /account/whoami",
    "POST /keys/upload",
    "POST /keys/query",
    "POST /keys/claim",
)


class _Anybody:
    """Authenticates every token, limits nothing and forwards nothing."""

    async def authenticate(self, token: str | None, request: Request) -> Requester:
        return Requester(UserId("@1:example.org"), "D", b"", is_guest=token == "guest")

    async def check(self, *args: Any) -> None:
        """Limit nothing."""

    async def route(self, request: Request) -> Response | None:
        return None

    def served(self, request: Request) -> None:
        """Count nothing."""


async def _answer(application: Application, endpoint: Endpoint, token: str) -> tuple[int, Any]:
    sent: list[dict[str, Any]] = []
    path = re.sub(r"\{\w+\??\}", "x", paths_of(endpoint)[0])
    scope = {
        "type": "http",
        "method": endpoint.method,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"authorization", b"Bearer " + token.encode())],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await application(scope, receive, send)
    return sent[0]["status"], orjson.loads(sent[1]["body"]).get("errcode")


async def test_guests_can_call_only_the_listed_endpoints() -> None:
    async def handle(request: Request) -> Response:
        return empty_response()

    anybody, registry, endpoints = _Anybody(), CollectorRegistry(), all_endpoints()
    application = Application(
        endpoints,
        {endpoint.name: handle for endpoint in endpoints if endpoint.auth is not Auth.SERVER},
        authenticator=anybody,
        rate_limiter=anybody,
        slot_router=anybody,
        internal_secret="x",
        limits=Limits(max_body_bytes=100),
        metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )
    for endpoint in endpoints:
        if endpoint.auth is Auth.ACCESS_TOKEN:
            allowed = endpoint.name in GUESTS_MAY
            answer = await _answer(application, endpoint, "guest")
            assert answer == ((200, None) if allowed else (403, "M_GUEST_ACCESS_FORBIDDEN")), endpoint.name
            assert await _answer(application, endpoint, "user") == (200, None), endpoint.name


def test_guest_list_covers_the_spec_and_names_existing_endpoints() -> None:
    by_call = {
        f"{endpoint.method} {endpoint.path.removeprefix('/_matrix/client/{version}')}": endpoint.name
        for endpoint in all_endpoints()
    }
    assert all(by_call[call] in GUESTS_MAY for call in _OF_THE_SPEC)
    assert set(by_call.values()) >= GUESTS_MAY
