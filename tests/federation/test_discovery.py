"""Finding other servers: each step of the specification, with real TLS, redirects and a real DNS server."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import dns.rcode
import pytest

from shared.core.errors import RemoteServerError
from shared.core.federation.server_discovery import Endpoint
from shared.core.identifiers import ServerName
from shared.federation.discovery import ServerDiscovery
from shared.federation.srv_records import SrvResolver
from tests.federation.name_server import NameServer, name_server
from tests.rigs.clock import MockClock
from tests.rigs.outside import OutsideWorld, PeerAnswer, PeerRequest

_NAME = ServerName("hs.example")
_WELL_KNOWN = "/.well-known/matrix/server"


def _end(host: str, port: int, name: str) -> Endpoint:
    return Endpoint(host=host, port=port, host_header=name, certificate_name=name.partition(":")[0])


@asynccontextmanager
async def discovery(
    world: OutsideWorld, records: Mapping[str, list[str]] | None = None, **settings: object
) -> AsyncIterator[tuple[ServerDiscovery, MockClock, NameServer]]:
    clock, client = MockClock(), world.client()
    async with name_server(records, **settings) as names:  # type: ignore[arg-type]
        yield ServerDiscovery(client, SrvResolver([("127.0.0.1", names.port)]), clock), clock, names
    await client.close()


@pytest.fixture
def world(tmp_path: Path) -> OutsideWorld:
    return OutsideWorld(tmp_path)


async def test_address_and_name_with_port_are_asked_nobody_about(world: OutsideWorld) -> None:
    async with discovery(world) as (finding, _, names):
        for name, host, port in (("192.0.2.1", "192.0.2.1", 8448), ("hs.example:444", "hs.example", 444)):
            assert await finding.endpoints(ServerName(name)) == (_end(host, port, name),)
        assert names.questions == []
        with pytest.raises(RemoteServerError, match="port"):
            await finding.endpoints(ServerName("hs.example:0"))


@pytest.mark.parametrize(
    ("delegated", "endpoint"),
    [
        ("192.0.2.7", _end("192.0.2.7", 8448, "192.0.2.7")),
        ("there.example:4443", _end("there.example", 4443, "there.example:4443")),
        ("srv.example", _end("machine.example", 8500, "srv.example")),
        ("old.example", _end("older.example", 8501, "old.example")),
        ("plain.example", _end("plain.example", 8448, "plain.example")),
    ],
)
async def test_well_known_delegates(world: OutsideWorld, delegated: str, endpoint: Endpoint) -> None:
    records = {
        "_matrix-fed._tcp.srv.example": ["10 0 8500 machine.example."],
        "_matrix._tcp.srv.example": ["10 0 1 wrong.example."],
        "_matrix._tcp.old.example": ["10 0 8501 older.example."],
        "_matrix-fed._tcp.hs.example": ["10 0 1 wrong.example."],
    }
    async with (
        world.peer(_NAME, lambda _: (200, {"m.server": delegated}), ports=[443]) as peer,
        discovery(world, records) as (finding, _, _names),
    ):
        for _ in range(3):
            assert await finding.endpoints(_NAME) == (endpoint,)
        assert peer.asked(_WELL_KNOWN) == 1  # the answer is kept


@pytest.mark.parametrize(
    "answer", [(404, {}), (200, b"<html>"), (200, {"m.server": "a b"}), (500, b""), (200, b" " * 60_000)]
)
async def test_without_well_known_the_name_itself_is_looked_up(world: OutsideWorld, answer: PeerAnswer) -> None:
    records = {"_matrix-fed._tcp.hs.example": ["20 0 2 second.example.", "10 0 1 first.example."]}
    async with (
        world.peer(_NAME, lambda _: answer, ports=[443]),
        discovery(world, records) as (finding, _, _names),
    ):
        assert [each.host for each in await finding.endpoints(_NAME)] == ["first.example", "second.example"]


@pytest.mark.parametrize("rcode", [dns.rcode.NXDOMAIN, dns.rcode.REFUSED, dns.rcode.SERVFAIL, dns.rcode.NOERROR])
async def test_refused_look_ups_mean_none(world: OutsideWorld, rcode: dns.rcode.Rcode) -> None:
    async with discovery(world, rcode=rcode) as (finding, _, names):
        assert await finding.endpoints(_NAME) == (_end(_NAME, 8448, _NAME),)
        assert {*names.questions} == {"_matrix-fed._tcp.hs.example", "_matrix._tcp.hs.example"}


async def test_redirects_are_followed_over_https_only(world: OutsideWorld) -> None:
    def hop(request: PeerRequest) -> PeerAnswer:
        if request.uri == _WELL_KNOWN:
            return 301, b"", {"location": "/elsewhere"}
        if request.uri == "/elsewhere":
            return 307, b"", {"location": "https://www.example/x"}
        return 302, b"", {"location": "http://www.example/x"}

    async with (
        world.peer(_NAME, hop, ports=[443]),
        world.peer("www.example", lambda _: (200, {"m.server": "found.example:1"}), ports=[443]),
        discovery(world) as (finding, _, _names),
    ):
        assert (await finding.endpoints(_NAME))[0].host == "found.example"

    async with (
        world.peer(_NAME, lambda _: (302, b"", {"location": "http://www.example/x"}), ports=[443]),
        discovery(world) as (finding, _, _names),
    ):
        assert (await finding.endpoints(_NAME))[0].host == _NAME

    async with (
        world.peer(_NAME, lambda _: (302, b"", {"location": _WELL_KNOWN}), ports=[443]) as peer,
        discovery(world) as (finding, _, _names),
    ):
        assert (await finding.endpoints(_NAME))[0].host == _NAME
        assert peer.asked(_WELL_KNOWN) == 5


async def test_failures_are_kept_briefly_and_an_outage_does_not_move_a_server(world: OutsideWorld) -> None:
    answers: list[PeerAnswer] = [(200, {"m.server": "there.example:1"}, {"cache-control": "max-age=600"})]
    async with (
        world.peer(_NAME, lambda _: answers[-1], ports=[443]) as peer,
        discovery(world) as (finding, clock, _),
    ):
        assert (await finding.endpoints(_NAME))[0].host == "there.example"
        answers.append((502, b""))
        clock.advance(601)
        assert (await finding.endpoints(_NAME))[0].host == "there.example"
        assert peer.asked(_WELL_KNOWN) == 2
        await finding.endpoints(_NAME)
        assert peer.asked(_WELL_KNOWN) == 2
        for _ in range(4):
            clock.advance(3_601)
            await finding.endpoints(_NAME)
        assert (await finding.endpoints(_NAME))[0].host == _NAME  # it is really gone
        answers.append((200, {"m.server": "back.example:1"}))
        clock.advance(3_601)
        assert (await finding.endpoints(_NAME))[0].host == "back.example"


async def test_equal_questions_at_the_same_time_are_asked_once(world: OutsideWorld) -> None:
    async def slow(_: PeerRequest) -> PeerAnswer:
        await asyncio.sleep(0.1)
        return 200, {"m.server": "there.example:1"}

    async with (
        world.peer(_NAME, slow, ports=[443]) as peer,
        discovery(world) as (finding, _, _names),
    ):
        found = await asyncio.gather(*(finding.endpoints(_NAME) for _ in range(20)))
        assert {each[0].host for each in found} == {"there.example"}
        assert peer.asked(_WELL_KNOWN) == 1


async def test_each_step_is_told(world: OutsideWorld) -> None:
    told: list[str] = []
    async with (
        world.peer(_NAME, lambda _: (200, {"m.server": "srv.example"}), ports=[443]),
        discovery(world, {"_matrix._tcp.srv.example": ["1 0 5 m.example."]}) as (finding, _, _names),
    ):
        await finding.endpoints(_NAME, told.append)
    assert told == [
        f"https://hs.example{_WELL_KNOWN} names srv.example",
        "SRV records of _matrix-fed._tcp.srv.example: none",
        "SRV records of _matrix._tcp.srv.example: m.example:5",
    ]
