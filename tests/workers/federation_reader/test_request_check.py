"""Requests of other servers are answered only if the server itself signed them, for us."""

from pathlib import Path
from urllib.parse import quote

import pytest

from shared.core.canonical_json import encode_canonical, encode_unpadded
from shared.core.federation.request_auth import sign_request
from shared.core.identifiers import ServerName
from shared.core.signing.keys import generate_signing_key
from tests.fix_servers import TestDatabase
from tests.rigs.outside import OutsideWorld
from tests.rigs.worker import SERVER
from tests.workers.federation_reader.rig import publishing_peer, reader

_PROFILE = f"/_matrix/federation/v1/query/profile?user_id={quote(f'@nobody:{SERVER}')}"


@pytest.fixture
def world(tmp_path: Path) -> OutsideWorld:
    return OutsideWorld(tmp_path)


async def test_signed_request_is_answered_and_the_key_is_asked_for_once(
    postgres: TestDatabase, world: OutsideWorld
) -> None:
    async with publishing_peer(world) as peer, reader(postgres.dsn, world) as running:
        for _ in range(3):
            answer = await running.ask_as(peer, "GET", _PROFILE)
            assert (answer.status, answer.json["errcode"]) == (404, "M_NOT_FOUND")
        assert peer.asked("/_matrix/key/v2/server") == 1


async def test_request_without_a_destination_is_answered(postgres: TestDatabase, world: OutsideWorld) -> None:
    """Servers of before v1.3 do not sign for whom a request is."""
    async with publishing_peer(world) as peer, reader(postgres.dsn, world) as running:
        signed = {"method": "GET", "uri": _PROFILE, "origin": peer.name}
        signature = peer.key.sign(encode_canonical(signed))
        header = f'X-Matrix origin={peer.name},key="{peer.key.key_id}",sig="{encode_unpadded(signature)}"'
        assert (await running.ask_as(peer, "GET", _PROFILE, authorization=header)).status == 404


async def test_request_that_is_not_rightly_signed_is_refused(postgres: TestDatabase, world: OutsideWorld) -> None:
    async with (
        publishing_peer(world) as peer,
        publishing_peer(world) as other,
        reader(postgres.dsn, world) as running,
    ):
        thief = generate_signing_key(b"t" * 32, "k1")
        unknown = generate_signing_key(b"u" * 32, "k2")
        refused = [
            await running.ask_as(peer, "GET", _PROFILE, authorization="Bearer abc"),
            await running.ask_as(peer, "GET", _PROFILE, key=thief),
            await running.ask_as(peer, "GET", _PROFILE, key=unknown),
            await running.ask_as(peer, "GET", _PROFILE, destination="third.example"),
            await running.raw("GET", _PROFILE, b""),
        ]
        header = sign_request(
            peer.key,
            origin=ServerName(other.name),
            destination=ServerName(SERVER),
            method="GET",
            uri=_PROFILE,
            content=None,
        )
        refused.append(await running.ask_as(peer, "GET", _PROFILE, authorization=header))
        own = sign_request(
            peer.key,
            origin=ServerName(SERVER),
            destination=ServerName(SERVER),
            method="GET",
            uri=_PROFILE,
            content=None,
        )
        refused.append(await running.ask_as(peer, "GET", _PROFILE, authorization=own))
        for answer in refused:
            assert (answer.status, answer.json["errcode"]) == (401, "M_UNAUTHORIZED"), answer.body


async def test_server_whose_keys_cannot_be_had_is_refused_without_asking_each_time(
    postgres: TestDatabase, world: OutsideWorld
) -> None:
    async with world.peer("", lambda _: (500, b""), ports=()) as peer, reader(postgres.dsn, world) as running:
        for _ in range(4):
            assert (await running.ask_as(peer, "GET", _PROFILE)).status == 401
        assert peer.asked("/_matrix/key/v2/server") == 1
        running.clock.advance(6)
        assert (await running.ask_as(peer, "GET", _PROFILE)).status == 401
        assert peer.asked("/_matrix/key/v2/server") == 2


async def test_own_network_is_not_asked_for_keys_unless_allowed(postgres: TestDatabase, world: OutsideWorld) -> None:
    async with publishing_peer(world) as peer, reader(postgres.dsn, world, allowed_ip_ranges=()) as running:
        assert (await running.ask_as(peer, "GET", _PROFILE)).status == 401
        assert peer.requests == []
