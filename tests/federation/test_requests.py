"""Signed requests to other servers."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from shared.core.errors import RemoteServerError
from shared.core.federation.request_auth import check_request_signature, parse_request_signature
from shared.core.identifiers import ServerName
from shared.core.signing.keys import generate_signing_key
from shared.federation.discovery import ServerDiscovery
from shared.federation.requests import RefusedByServer, ServerRequests
from shared.federation.srv_records import SrvResolver
from tests.federation.name_server import name_server
from tests.rigs.clock import MockClock
from tests.rigs.outside import OutsideWorld, PeerAnswer

_OWN, _PEER = ServerName("own.example"), ServerName("peer.example")
_KEY = generate_signing_key(b"o" * 32, "own")


@asynccontextmanager
async def requests(world: OutsideWorld, records: dict[str, list[str]] | None = None) -> AsyncIterator[ServerRequests]:
    client = world.client()
    async with name_server(records) as names:
        finding = ServerDiscovery(client, SrvResolver([("127.0.0.1", names.port)]), MockClock())
        yield ServerRequests(_OWN, _KEY, client, finding)
    await client.close()


@pytest.fixture
def world(tmp_path: Path) -> OutsideWorld:
    return OutsideWorld(tmp_path)


async def test_request_is_signed_as_it_is_sent(world: OutsideWorld) -> None:
    uri = "/_matrix/federation/v1/x/%24a%2Fb?c=%20d"
    async with world.peer(_PEER, lambda _: (200, {"n": 1})) as peer, requests(world) as asking:
        for content in (None, {"b": "ü", "a": [1]}):
            assert await asking.ask(_PEER, "PUT", uri, content) == {"n": 1}
            got = peer.requests[-1]
            assert (got.method, got.uri, got.body, got.headers["host"]) == ("PUT", uri, content, _PEER)
            signature = parse_request_signature(got.headers["authorization"])
            assert (signature.origin, signature.destination) == (_OWN, _PEER)
            check_request_signature(signature, _KEY.verify_key, method="PUT", uri=uri, content=content)


async def test_next_address_is_tried_if_one_does_not_answer(world: OutsideWorld) -> None:
    records = {"_matrix-fed._tcp.peer.example": ["1 0 1 dead.example.", "2 0 2 live.example."]}
    async with (
        world.peer("live.example", lambda _: (200, {}), ports=[2], certificate_for=[_PEER]),
        requests(world, records) as asking,
    ):
        assert await asking.ask(_PEER, "GET", "/x") == {}


async def test_certificate_of_the_machine_is_not_enough(world: OutsideWorld) -> None:
    records = {"_matrix-fed._tcp.peer.example": ["2 0 2 live.example."]}
    async with world.peer("live.example", lambda _: (200, {}), ports=[2]) as peer, requests(world, records) as asking:
        with pytest.raises(RemoteServerError, match="certificate"):
            await asking.ask(_PEER, "GET", "/x")
        assert peer.requests == []


@pytest.mark.parametrize(
    ("answer", "status", "errcode"),
    [
        ((403, {"errcode": "M_FORBIDDEN", "error": "no"}), 403, "M_FORBIDDEN"),
        ((502, b"<html>"), 502, ""),
        ((404, []), 404, ""),
        ((400, {"errcode": 5}), 400, ""),
        ((500, b"x" * 100_000), 500, ""),
        ((302, b"", {"location": "https://other.example/"}), 302, ""),
    ],
)
async def test_refusal_carries_status_and_error(
    world: OutsideWorld, answer: PeerAnswer, status: int, errcode: str
) -> None:
    async with world.peer(_PEER, lambda _: answer), requests(world) as asking:
        with pytest.raises(RefusedByServer) as refused:
            await asking.ask(_PEER, "GET", "/x")
        assert (refused.value.status, refused.value.errcode) == (status, errcode)


async def test_answer_that_is_no_json_is_the_servers_fault(world: OutsideWorld) -> None:
    async with world.peer(_PEER, lambda _: (200, b"<html>")), requests(world) as asking:
        with pytest.raises(RemoteServerError, match="JSON"):
            await asking.ask(_PEER, "GET", "/x")


async def test_server_that_is_not_there_is_named_with_its_address(world: OutsideWorld) -> None:
    async with requests(world) as asking:
        with pytest.raises(RemoteServerError, match=r"gone\.example at gone\.example port 8448"):
            await asking.ask(ServerName("gone.example"), "GET", "/x")
