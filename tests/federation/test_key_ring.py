"""The keys of other servers: asked for once, kept for good, and believed only with the server's own signature."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from shared.core.event_checks.signatures import RequiredSignature, VerifyKey
from shared.core.identifiers import ServerName
from shared.core.signing.json_signatures import sign_json
from shared.core.signing.keys import SigningKey, generate_signing_key
from shared.core.wire.server_keys import build_server_keys
from shared.federation.discovery import ServerDiscovery
from shared.federation.key_ring import KeyRing
from shared.federation.requests import ServerRequests
from shared.federation.srv_records import SrvResolver
from shared.metrics.federation import FederationMetrics
from shared.storage.engine.pool import Database, connector
from shared.storage.federation.server_keys import get_signed_answers
from tests.federation.name_server import name_server
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from tests.rigs.outside import OutsideWorld, PeerAnswer, PeerRequest

_OWN, _PEER, _NOTARY = ServerName("own.example"), ServerName("peer.example"), ServerName("notary.example")
_KEY = generate_signing_key(b"o" * 32, "own")
_PEER_KEY = generate_signing_key(b"p" * 32, "k1")
_KEYS_PATH, _QUERY_PATH = "/_matrix/key/v2/server", "/_matrix/key/v2/query"
_DAY_S = 86_400
_K1 = "ed25519:k1"


class Servers:
    """The world, a clock, and key rings that share a database as processes do."""

    def __init__(self, world: OutsideWorld, database: Database, port: int) -> None:
        self.world, self.clock = world, MockClock()
        self._database = database
        self._client = world.client()
        finding = ServerDiscovery(self._client, SrvResolver([("127.0.0.1", port)]), self.clock)
        self._requests = ServerRequests(_OWN, _KEY, self._client, finding)
        self.rings: list[KeyRing] = []

    def ring(self, notaries: Sequence[ServerName] = ()) -> KeyRing:
        own = {_KEY.key_id: VerifyKey(_KEY.verify_key, valid_until_ts=1 << 50)}
        self._registry = CollectorRegistry()
        metrics = FederationMetrics(self._registry)
        self.rings.append(
            KeyRing(
                _OWN, own, self._database, self._requests, self.clock, metrics, notaries=notaries, cache_bytes=1 << 20
            )
        )
        return self.rings[-1]

    def refused_fetches(self) -> float:
        """Return how many fetches the newest ring refused, since their asker wanted too much."""
        labels = {"asked": "server", "outcome": "refused"}
        return self._registry.get_sample_value("skep_server_key_fetches_total", labels) or 0.0

    def keys(self, key: SigningKey = _PEER_KEY, for_s: float = _DAY_S, name: str = _PEER) -> dict[str, Any]:
        """Return an answer with this key, valid for some time from now."""
        return build_server_keys(name, [key], [], self.clock.now_ms() + int(for_s * 1000))

    def needed(self, *key_ids: str, server: ServerName = _PEER, at_s: float | None = 0.0) -> list[RequiredSignature]:
        at_ms = None if at_s is None else self.clock.now_ms() + int(at_s * 1000)
        return [RequiredSignature(server, frozenset(key_ids or (_K1,)), at_ms)]

    async def close(self) -> None:
        for ring in self.rings:
            await ring.close()
        await self._client.close()


@pytest.fixture
async def servers(tmp_path: Path, postgres: TestDatabase) -> AsyncIterator[Servers]:
    async with _servers(tmp_path, postgres) as made:
        yield made


@asynccontextmanager
async def _servers(directory: Path, postgres: TestDatabase) -> AsyncIterator[Servers]:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=4)
    async with name_server() as names:
        made = Servers(OutsideWorld(directory), database, names.port)
        yield made
        await made.close()
    await database.close()


async def test_keys_are_asked_for_once_and_outlive_the_process(servers: Servers) -> None:
    async with servers.world.peer(_PEER, lambda _: (200, servers.keys())) as peer:
        ring = servers.ring()
        for _ in range(3):
            found = await ring.keys_for(servers.needed(), timeout_s=5, asker="a")
            assert found[_PEER, _K1].key == _PEER_KEY.verify_key
        assert (await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a"))[_PEER, _K1]
        assert peer.asked(_KEYS_PATH) == 1


async def test_own_keys_need_no_question(servers: Servers) -> None:
    needed = servers.needed(_KEY.key_id, server=_OWN)
    assert (await servers.ring().keys_for(needed, timeout_s=5, asker="a"))[_OWN, _KEY.key_id].key == _KEY.verify_key


async def test_key_is_asked_for_again_when_its_validity_is_over(servers: Servers) -> None:
    async with servers.world.peer(_PEER, lambda _: (200, servers.keys(for_s=3600))) as peer:
        ring = servers.ring()
        await ring.keys_for(servers.needed(), timeout_s=5, asker="a")
        servers.clock.advance(3601)
        await ring.keys_for(servers.needed(at_s=None), timeout_s=5, asker="a")  # old room versions take any key
        assert peer.asked(_KEYS_PATH) == 1
        found = await ring.keys_for(servers.needed(), timeout_s=5, asker="a")
        assert found[_PEER, _K1].was_valid_at(servers.clock.now_ms())
        assert peer.asked(_KEYS_PATH) == 2


async def test_equal_questions_at_the_same_time_are_one(servers: Servers) -> None:
    async def slow(_: PeerRequest) -> PeerAnswer:
        await asyncio.sleep(0.1)
        return 200, servers.keys()

    async with servers.world.peer(_PEER, slow) as peer:
        ring = servers.ring()
        found = await asyncio.gather(*(ring.keys_for(servers.needed(), timeout_s=5, asker="a") for _ in range(20)))
        assert all((_PEER, _K1) in each for each in found)
        assert peer.asked(_KEYS_PATH) == 1


async def test_slow_server_holds_up_nobody_and_its_answer_is_not_lost(servers: Servers) -> None:
    go_on = asyncio.Event()

    async def slow(_: PeerRequest) -> PeerAnswer:
        await go_on.wait()
        return 200, servers.keys()

    async with servers.world.peer(_PEER, slow) as peer:
        ring = servers.ring()
        assert (_PEER, _K1) not in await ring.keys_for(servers.needed(), timeout_s=0.2, asker="a")
        go_on.set()
        assert (_PEER, _K1) in await ring.keys_for(servers.needed(), timeout_s=10, asker="a")
        assert peer.asked(_KEYS_PATH) == 1


async def test_failure_is_remembered_by_all_processes(servers: Servers) -> None:
    working: list[bool] = []
    async with servers.world.peer(_PEER, lambda _: (200, servers.keys()) if working else (500, b"")) as peer:
        for _ in range(3):
            assert (_PEER, _K1) not in await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        assert peer.asked(_KEYS_PATH) == 1
        servers.clock.advance(80)
        await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        assert peer.asked(_KEYS_PATH) == 2
        servers.clock.advance(80)  # the second pause is longer
        await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        assert peer.asked(_KEYS_PATH) == 2

        # A server that sends us something is up.
        working.append(True)
        assert (_PEER, _K1) in await servers.ring().keys_for(
            servers.needed(), timeout_s=5, asker="a", heard_from=[_PEER]
        )
        assert peer.asked(_KEYS_PATH) == 3


async def test_server_that_sends_requests_with_unknown_keys_is_not_asked_each_time(servers: Servers) -> None:
    async with servers.world.peer(_PEER, lambda _: (500, b"")) as peer:
        ring = servers.ring()
        for _ in range(5):
            await ring.keys_for(servers.needed(), timeout_s=5, asker="a", heard_from=[_PEER])
        assert peer.asked(_KEYS_PATH) == 1


async def test_notary_answers_for_a_dead_server(servers: Servers) -> None:
    def notary(request: PeerRequest) -> PeerAnswer:
        if request.uri != _QUERY_PATH:
            return 404, {}
        least = request.body["server_keys"][_PEER][_K1]["minimum_valid_until_ts"]
        assert least == servers.clock.now_ms()
        return 200, {"server_keys": [sign_json(servers.keys(), _NOTARY, _KEY)]}

    async with servers.world.peer(_NOTARY, notary) as peer:
        found = await servers.ring([_NOTARY]).keys_for(servers.needed(), timeout_s=5, asker="a")
        assert found[_PEER, _K1].key == _PEER_KEY.verify_key
        assert peer.asked(_QUERY_PATH) == 1


async def test_next_notary_is_asked_when_one_fails_or_lies(servers: Servers) -> None:
    thief = generate_signing_key(b"t" * 32, "k1")
    forged = {**servers.keys(), "verify_keys": servers.keys(thief)["verify_keys"]}
    of_another = build_server_keys("other.example", [thief], [], servers.clock.now_ms() + 10**7)
    second = ServerName("second.example")
    async with (
        servers.world.peer(_NOTARY, lambda _: (200, {"server_keys": [forged, of_another, 5, None]})) as lying,
        servers.world.peer(second, lambda _: (200, {"server_keys": [servers.keys()]})) as honest,
    ):
        dead = ServerName("dead.example")
        found = await servers.ring([dead, _NOTARY, second]).keys_for(servers.needed(), timeout_s=8, asker="a")
        assert found[_PEER, _K1].key == _PEER_KEY.verify_key
        assert (lying.asked(_QUERY_PATH), honest.asked(_QUERY_PATH)) == (1, 1)
        assert ("other.example", _K1) not in found


async def test_known_key_never_gets_other_bytes(servers: Servers) -> None:
    answers = [servers.keys(for_s=10)]
    async with servers.world.peer(_PEER, lambda _: (200, answers[-1])):
        await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        servers.clock.advance(20)
        answers.append(servers.keys(generate_signing_key(b"t" * 32, "k1")))
        found = await servers.ring().keys_for(servers.needed(), timeout_s=5, asker="a")
        assert found[_PEER, _K1].key == _PEER_KEY.verify_key
        assert not found[_PEER, _K1].was_valid_at(servers.clock.now_ms())


async def test_answers_are_kept_as_their_servers_signed_them(servers: Servers, postgres: TestDatabase) -> None:
    async with servers.world.peer(_PEER, lambda _: (200, servers.keys())):
        ring = servers.ring()
        await ring.published([_PEER, ServerName("gone.example")], timeout_s=8, asker="a")
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
    (answer,) = await get_signed_answers(database, [_PEER])
    assert answer.key_ids == {_K1}
    assert answer.valid_until_ms == servers.clock.now_ms() + _DAY_S * 1000
    assert b'"signatures":{"peer.example"' in answer.signed
    await database.close()


async def test_one_asker_holds_up_no_other(servers: Servers) -> None:
    never = asyncio.Event()

    async def silent(_: PeerRequest) -> PeerAnswer:
        await never.wait()
        return 200, {}

    async with (
        servers.world.peer(_NOTARY, silent) as swallowing,
        servers.world.peer(_PEER, lambda _: (200, servers.keys())),
    ):
        ring = servers.ring()
        names = [ServerName(f"n{number}.example") for number in range(4_000)]
        for name in names:
            servers.world.lead(name, 8448, swallowing.port)
        greedy = asyncio.create_task(ring.published(names, timeout_s=60, asker="greedy"))
        await asyncio.sleep(0.5)
        found = await ring.keys_for(servers.needed(), timeout_s=10, asker="honest")
        assert (_PEER, _K1) in found
        refused = servers.refused_fetches()
        assert refused >= 4_000 - 100
        greedy.cancel()
