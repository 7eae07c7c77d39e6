"""Keys of other servers, for those that ask us: signed by their owner and by us, also when the owner is away."""

from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from shared.core.signing.json_signatures import verify_json
from shared.core.signing.keys import parse_signing_key
from tests.fix_servers import TestDatabase
from tests.rigs.outside import OutsideWorld, Peer
from tests.rigs.worker import SERVER
from tests.workers.federation_reader.rig import Reader, publishing_peer, reader

_QUERY = "/_matrix/key/v2/query"


@pytest.fixture
def world(tmp_path: Path) -> OutsideWorld:
    return OutsideWorld(tmp_path)


async def _query(running: Reader, wanted: dict[str, Any]) -> list[dict[str, Any]]:
    answer = await running.call_json("POST", _QUERY, {"server_keys": wanted})
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["server_keys"]
    return found


def _check(running: Reader, peer: Peer, entry: dict[str, Any]) -> None:
    verify_json(entry, peer.name, peer.key.key_id, peer.key.verify_key)
    own = parse_signing_key(running.foundation.config.signing.key.reveal())
    verify_json(entry, SERVER, own.key_id, own.verify_key)


async def test_keys_are_fetched_and_signed_by_both(postgres: TestDatabase, world: OutsideWorld) -> None:
    async with publishing_peer(world) as peer, reader(postgres.dsn, world) as running:
        (entry,) = await _query(running, {peer.name: {}})
        _check(running, peer, entry)
        for path in (peer.name, f"{peer.name}/{peer.key.key_id}"):
            answer = await running.raw("GET", f"{_QUERY}/{quote(path, safe='/')}", b"")
            assert answer.json["server_keys"] == [entry]
        assert peer.asked("/_matrix/key/v2/server") == 1


async def test_keys_of_a_server_that_is_away_are_answered(postgres: TestDatabase, world: OutsideWorld) -> None:
    async with reader(postgres.dsn, world) as running:
        async with publishing_peer(world) as peer:
            await _query(running, {peer.name: {}})
        running.clock.advance(120)
        later_ms = running.clock.now_ms() + 10**9
        (entry,) = await _query(running, {peer.name: {peer.key.key_id: {"minimum_valid_until_ts": later_ms}}})
        _check(running, peer, entry)
        assert await _query(running, {peer.name: {"ed25519:other": {}}, "localhost:1": {}}) == []


async def test_keys_are_fetched_again_when_they_should_be_valid_for_longer(
    postgres: TestDatabase, world: OutsideWorld
) -> None:
    async with publishing_peer(world) as peer, reader(postgres.dsn, world) as running:
        await _query(running, {peer.name: {}})
        running.clock.advance(120)
        await _query(running, {peer.name: {peer.key.key_id: {}}})
        assert peer.asked("/_matrix/key/v2/server") == 1
        later_ms = running.clock.now_ms() + 2 * 86_400_000
        await _query(running, {peer.name: {peer.key.key_id: {"minimum_valid_until_ts": later_ms}}})
        await _query(running, {peer.name: {peer.key.key_id: {"minimum_valid_until_ts": later_ms}}})
        assert peer.asked("/_matrix/key/v2/server") == 2


async def test_own_keys_are_answered(postgres: TestDatabase, world: OutsideWorld) -> None:
    async with reader(postgres.dsn, world) as running:
        (entry,) = await _query(running, {SERVER: {}})
        own = parse_signing_key(running.foundation.config.signing.key.reveal())
        verify_json(entry, SERVER, own.key_id, own.verify_key)


@pytest.mark.parametrize(
    ("body", "status", "errcode"),
    [
        ({}, 400, "M_BAD_JSON"),
        ({"server_keys": {"a b": {}}}, 400, "M_INVALID_PARAM"),
        ({"server_keys": {"a.org": {"ed25519:1": {"minimum_valid_until_ts": "x"}}}}, 400, "M_BAD_JSON"),
        ({"server_keys": {f"s{n}.example": {} for n in range(101)}}, 413, "M_TOO_LARGE"),
    ],
)
async def test_malformed_question_is_refused(
    postgres: TestDatabase, world: OutsideWorld, body: Any, status: int, errcode: str
) -> None:
    async with reader(postgres.dsn, world) as running:
        answer = await running.call_json("POST", _QUERY, body)
        assert (answer.status, answer.json["errcode"]) == (status, errcode)
        assert (await running.call_json("POST", _QUERY, {"server_keys": {}})).json == {"server_keys": []}
