"""The bytes of request bodies that wait in memory until their requests are answered."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from shared.config.sections import Limits
from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import UserId
from shared.http.admission.bodies import BodyReader
from shared.http.request import Request, Requester
from shared.metrics.http import HttpMetrics
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import client_api
from workers.client_api.endpoints import ENDPOINTS

_MIB = 1 << 20


def _request(user: str | None, size: int) -> Request:
    requester = None if user is None else Requester(UserId(user), "D", user.encode())
    return Request(
        endpoint=ENDPOINTS[0],
        method="PUT",
        path=b"/",
        raw_query=b"",
        params={},
        headers={},
        body=bytes(size),
        client_address="192.0.2.1",
        request_id="r",
        requester=requester,
    )


def test_held_bodies_are_limited_by_bytes_per_user_and_in_all() -> None:
    bodies = BodyReader(Limits(), HttpMetrics(CollectorRegistry()))
    held = [_request("@a:x", _MIB) for _ in range(16)]
    for request in held:
        bodies.hold(request)
    with pytest.raises(MatrixError) as refused:
        bodies.hold(_request("@a:x", 5000))
    assert (refused.value.errcode, refused.value.status) == ("M_LIMIT_EXCEEDED", 429)
    bodies.hold(_request("@a:x", 4000))  # small ones are not counted
    bodies.hold(_request("@b:x", _MIB))
    bodies.release(held[0])
    bodies.release(held[0])  # an answered request counts once
    bodies.hold(_request("@a:x", _MIB))
    with pytest.raises(MatrixError):
        bodies.hold(_request("@a:x", 5000))
    for number in range(239):
        bodies.hold(_request(f"@u{number}:x", _MIB))
    with pytest.raises(Unavailable):
        bodies.hold(_request("@new:x", _MIB))
    with pytest.raises(Unavailable):
        bodies.hold(_request(None, _MIB))


async def test_bodies_are_released_with_the_answer_whatever_it_is(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        path = f"/user/{alice.quoted}/account_data/m.big"
        text = "x" * 900_000
        for number in range(10):
            body = {"text": text} if number % 2 else [text]
            answer = await alice.call("PUT", path, body)
            assert answer.status == (200 if number % 2 else 400), answer.body
        # At once they are more than a user may have.
        answers = await asyncio.gather(*(alice.call("PUT", path, {"text": text}) for _ in range(25)))
        statuses = sorted({answer.status for answer in answers})
        assert statuses == [200, 429]
        assert (await alice.call("PUT", path, {"text": text})).status == 200
