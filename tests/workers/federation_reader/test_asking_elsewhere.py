"""Questions to other servers, for clients of ours: asked once, kept briefly, and every refusal told."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api
from tests.rigs.outside import OutsideWorld, Peer, PeerAnswer, PeerRequest
from tests.rigs.requests import Answer
from tests.rigs.worker import SERVER
from tests.workers.federation_reader.rig import publishing_peer, reader

_PROFILE, _DIRECTORY = "/_matrix/federation/v1/query/profile", "/_matrix/federation/v1/query/directory"


class Elsewhere:
    """A client of ours, and a server that answers as the test says."""

    def __init__(self, worker: ClientApi, user: User, peer: Peer) -> None:
        self.worker, self.user, self.peer = worker, user, peer
        self.answers: dict[str, PeerAnswer] = {}
        self.delay_s = 0.0

    async def answer(self, request: PeerRequest) -> PeerAnswer:
        await asyncio.sleep(self.delay_s)
        return self.answers.get(request.uri.partition("?")[0], (404, {"errcode": "M_NOT_FOUND", "error": "no"}))

    async def profile(self, field: str = "", *, name: str = "carol", token: str | None = "") -> Answer:
        path = f"/profile/{quote(f'@{name}:{self.peer.name}', safe='')}" + (f"/{field}" if field else "")
        return await self.worker.call("GET", path, token=self.user.token if token == "" else token)

    async def alias(self) -> Answer:
        path = f"/directory/room/{quote(f'#bees:{self.peer.name}', safe='')}"
        return await self.worker.call("GET", path, token=self.user.token)


@pytest.fixture
async def elsewhere(postgres: TestDatabase, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    world = OutsideWorld(tmp_path)
    found: list[Elsewhere] = []

    async def answer(request: PeerRequest) -> PeerAnswer:
        return await found[0].answer(request)

    async with (
        publishing_peer(world, answer) as peer,
        reader(postgres.dsn, world) as asking,
        client_api(postgres.dsn) as worker,
    ):
        worker.reach_rooms_at(asking)
        found.append(Elsewhere(worker, await worker.register("alice"), peer))
        yield found[0]


async def test_profile_comes_from_the_users_server_once(elsewhere: Elsewhere) -> None:
    elsewhere.answers[_PROFILE] = (200, {"displayname": "Carol", "avatar_url": "mxc://x/y"})
    elsewhere.delay_s = 0.1
    answers = await asyncio.gather(*(elsewhere.profile() for _ in range(10)))
    assert {answer.status for answer in answers} == {200}
    assert answers[0].json == {"displayname": "Carol", "avatar_url": "mxc://x/y"}
    assert (await elsewhere.profile()).status == 200
    assert elsewhere.peer.asked(_PROFILE) == 1
    elsewhere.answers[_PROFILE] = (200, {"displayname": "Carol"})
    assert (await elsewhere.profile("displayname")).json == {"displayname": "Carol"}
    assert elsewhere.peer.requests[-1].uri.endswith("&field=displayname")
    assert (await elsewhere.profile("avatar_url")).json == {}


async def test_alias_comes_from_its_server_which_is_named_first(elsewhere: Elsewhere) -> None:
    servers: list[Any] = ["third.example", elsewhere.peer.name, 5, "a b", *(f"s{n}.example" for n in range(30))]
    elsewhere.answers[_DIRECTORY] = (200, {"room_id": "!r:x.example", "servers": servers})
    answer = await elsewhere.alias()
    assert (answer.status, answer.json["room_id"]) == (200, "!r:x.example")
    assert answer.json["servers"][:3] == [elsewhere.peer.name, "third.example", "s0.example"]
    assert len(answer.json["servers"]) == 20


@pytest.mark.parametrize(
    ("given", "status", "errcode"),
    [
        ((404, {"errcode": "M_NOT_FOUND", "error": "no such user"}), 404, "M_NOT_FOUND"),
        ((403, {"errcode": "M_FORBIDDEN", "error": "not you"}), 403, "M_FORBIDDEN"),
        ((401, {"errcode": "M_UNKNOWN_TOKEN", "error": "log out"}), 502, "M_UNKNOWN"),
        ((429, {"errcode": "M_LIMIT_EXCEEDED", "error": "slowly"}), 502, "M_UNKNOWN"),
        ((500, b"<html>"), 502, "M_UNKNOWN"),
        ((200, b"<html>"), 502, "M_UNKNOWN"),
        ((200, []), 502, "M_UNKNOWN"),
    ],
)
async def test_refusal_reaches_the_client_as_far_as_it_concerns_them(
    elsewhere: Elsewhere, given: PeerAnswer, status: int, errcode: str
) -> None:
    elsewhere.answers[_PROFILE] = given
    answer = await elsewhere.profile()
    assert (answer.status, answer.json["errcode"]) == (status, errcode)


@pytest.mark.parametrize("content", [{}, {"room_id": 5}, {"room_id": "no room", "servers": "x"}])
async def test_alias_without_a_room_is_the_other_servers_fault(elsewhere: Elsewhere, content: Any) -> None:
    elsewhere.answers[_DIRECTORY] = (200, content)
    assert (await elsewhere.alias()).status == 502


async def test_server_that_is_away_is_not_asked_by_everybody(postgres: TestDatabase, tmp_path: Path) -> None:
    world = OutsideWorld(tmp_path)
    async with reader(postgres.dsn, world) as asking, client_api(postgres.dsn) as worker:
        worker.reach_rooms_at(asking)
        alice = await worker.register("alice")
        path = f"/profile/{quote('@a:localhost:9', safe='')}"
        for _ in range(3):
            answer = await worker.call("GET", path, token=alice.token)
            assert (answer.status, answer.json["errcode"]) == (502, "M_UNKNOWN")
        outcome = asking.foundation.registry.get_sample_value
        assert outcome("skep_outside_requests_total", {"outcome": "failed"}) == 1
        asking.clock.advance(11)
        await worker.call("GET", path, token=alice.token)
        assert outcome("skep_outside_requests_total", {"outcome": "failed"}) == 2


async def test_strangers_cannot_have_us_ask_others(elsewhere: Elsewhere) -> None:
    elsewhere.answers[_PROFILE] = (200, {"displayname": "Carol"})
    answer = await elsewhere.profile(token=None)
    assert (answer.status, answer.json["errcode"]) == (401, "M_MISSING_TOKEN")
    assert elsewhere.peer.asked(_PROFILE) == 0


async def test_own_users_are_answered_from_here(elsewhere: Elsewhere) -> None:
    path = f"/profile/{quote(f'@nobody:{SERVER}', safe='')}"
    assert (await elsewhere.worker.call("GET", path, token=elsewhere.user.token)).status == 404
    assert elsewhere.peer.requests == []
