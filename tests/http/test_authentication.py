"""Endpoints whose callers this server cannot authenticate are never served."""

from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.config.sections import Limits
from shared.core.identifiers import UserId
from shared.http.endpoint import MAX_TRANSACTION_BYTES, Auth, Endpoint, Pool, RoutingKey
from shared.http.endpoint_check import check_endpoints
from shared.http.process_pages import ProcessPages
from shared.http.request import Request, Requester, Response
from shared.http.server import Application
from shared.metrics.http import HttpMetrics
from tests.rigs.requests import ask

POOL = Pool(name="federation", worker="federation_reader")


class _Anybody:
    async def authenticate(self, token: str | None, request: Request) -> Requester:
        return Requester(UserId("@a:hive.example"), "D", b"")

    async def check(self, *args: Any) -> None:
        """Limit nothing."""

    async def route(self, request: Request) -> Response | None:
        return None

    def served(self, request: Request) -> None:
        """Count nothing."""


def state_of_room(auth: Auth) -> Endpoint:
    return Endpoint(name="state", method="GET", path="/_matrix/federation/v1/state", pool="federation", auth=auth)


def application(auth: Auth) -> Application:
    async def handle(request: Request) -> Response:
        return Response(b'{"secret": "state"}')

    anybody, registry = _Anybody(), CollectorRegistry()
    return Application(
        [state_of_room(auth)],
        {"state": handle},
        authenticator=anybody,
        rate_limiter=anybody,
        slot_router=anybody,
        internal_secret="x",
        limits=Limits(max_body_bytes=100),
        metrics=HttpMetrics(registry),
        pages=ProcessPages(registry, ready=lambda: True, metrics=False),
    )


def test_process_does_not_start_with_an_endpoint_whose_callers_it_cannot_authenticate() -> None:
    with pytest.raises(ValueError, match="authenticated: state"):
        application(Auth.SERVER)


async def test_endpoint_of_a_kind_that_nobody_checks_looks_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second lock: even an application that was composed wrongly does not answer."""
    served = application(Auth.NONE)
    assert (await ask(served, "GET", "/_matrix/federation/v1/state", b"")).status == 200
    monkeypatch.setattr(served, "_checked", frozenset({Auth.OPTIONAL}))
    answer = await ask(served, "GET", "/_matrix/federation/v1/state", b"")
    assert (answer.status, answer.json["errcode"]) == (404, "M_UNRECOGNIZED")


def test_transactions_of_other_servers_may_be_as_large_as_the_spec_allows() -> None:
    def transactions(limit_bytes: int | None) -> Endpoint:
        return Endpoint(
            name="transaction",
            method="PUT",
            path="/_matrix/federation/v1/send/{txnId}",
            pool="federation",
            routing_key=RoutingKey.ORIGIN,
            auth=Auth.SERVER,
            body_limit_bytes=limit_bytes,
        )

    assert MAX_TRANSACTION_BYTES >= 50 * 65_536 + 100 * 65_536
    check_endpoints([transactions(MAX_TRANSACTION_BYTES)], [POOL])
    for limit_bytes in (None, 1 << 20):
        with pytest.raises(ValueError, match="body_limit_bytes"):
            check_endpoints([transactions(limit_bytes)], [POOL])
