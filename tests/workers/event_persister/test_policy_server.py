"""Rooms with a policy server: a small one here, queried over HTTP.

Spec: server-server API, "Policy Servers"; room_policy.yaml.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest

from shared.core.errors import MatrixError, RemoteServerError
from shared.core.event_checks import POLICY_KEY_ID
from shared.core.events import parse_event
from shared.core.events.signatures import sign_pdu
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import get_room_version
from shared.core.signing import generate_signing_key
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.worker import SERVER
from tests.workers.event_persister.graph_model import Graph
from tests.workers.event_persister.graph_rig import BOB, begin, check_stored, deliver, follow, outcomes

KEY = generate_signing_key(b"p" * 32, "policy_server")
VERSION = get_room_version("10")


class SmallPolicyServer:
    """A policy server that decides by the `body` of an event's content. asked: the bodies it has received."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = 0
        self.asked: list[Any] = []
        self.slow = asyncio.Event()
        self.asked_slowly = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert head.startswith("post /_matrix/policy/v1/sign ")
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        pdu = orjson.loads(await reader.readexactly(length))
        self.asked.append(pdu["content"].get("body"))
        status, body = await self.answer(pdu)
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        writer.close()

    async def answer(self, pdu: Mapping[str, Any]) -> tuple[int, bytes]:
        what = str(pdu["content"].get("body"))
        if what.startswith("spam"):
            return 400, orjson.dumps({"errcode": "M_FORBIDDEN", "error": "This is spam"})
        if what.startswith("slow"):
            self.asked_slowly.set()
            await self.slow.wait()
        signed = sign_pdu(VERSION, pdu, self.name, KEY)["signatures"][self.name]
        good = {self.name: {POLICY_KEY_ID: signed[POLICY_KEY_ID]}}
        rubbish: dict[str, Any] = {
            "wrong": {self.name: {POLICY_KEY_ID: "A" * 86}},
            "nothing": {},
            "list": [],
            "number": {self.name: 1},
            "other": {"x.example": good[self.name]},
            "object": {self.name: {POLICY_KEY_ID: {}}},
            "long": {self.name: {POLICY_KEY_ID: "A" * 100_000}},
            "more": {self.name: {**good[self.name], "ed25519:x": "A" * 70_000}, "y": {"z": 1}},
        }
        return 200, orjson.dumps(rubbish.get(what, good))

    async def ask(self, server_name: str, pdu: Mapping[str, Any]) -> Any:
        """Query this server, in place of a persister's HTTP client."""
        assert server_name == self.name
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError as error:
            raise RemoteServerError(str(error)) from error
        body = orjson.dumps(dict(pdu))
        writer.write(b"POST /_matrix/policy/v1/sign HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = await reader.read()
        writer.close()
        head, _, content = answer.partition(b"\r\n\r\n")
        status, found = int(head.split()[1]), orjson.loads(content)
        if status != 200:
            raise MatrixError(found["errcode"], found["error"], status)
        return found


@asynccontextmanager
async def policed(
    monkeypatch: pytest.MonkeyPatch, dsn: str, name: str = "b.example"
) -> AsyncIterator[tuple[Persister, SmallPolicyServer, RoomId, Graph, User]]:
    """Make a room with Bob's server as its policy server. Bob is a member."""
    policy = SmallPolicyServer(name)
    server = await asyncio.start_server(policy.serve, "127.0.0.1", 0)
    policy.port = server.sockets[0].getsockname()[1]
    monkeypatch.setattr("workers.event_persister.compose.ask_nobody", policy.ask)
    async with server, event_persister(dsn) as persister:
        room_id, graph, alice = await begin(persister, "10")
        bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
        graph.arrive(bob)
        await deliver(persister, room_id, [bob])
        content = {"via": name, "public_keys": {"ed25519": KEY.verify_key_base64}}
        assert (await alice.put_state(room_id, "m.room.policy", content)).status == 200
        yield persister, policy, room_id, graph, alice
        policy.slow.set()
        server.close()


async def stored_event(persister: Persister, event_id: EventId) -> Any:
    rows = await persister.sql("SELECT * FROM events WHERE event_id = $1", event_id)
    return rows[0] if rows else None


async def test_policy_server_signs_and_refuses_events(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with policed(monkeypatch, postgres_module.dsn) as (persister, policy, room_id, _, alice):
        assert policy.asked == [], "m.room.policy itself is exempt"
        sent = (await alice.send(room_id, "hello")).event_id
        signatures = orjson.loads((await stored_event(persister, sent))["json"])["signatures"]
        assert list(signatures["b.example"]) == [POLICY_KEY_ID] and SERVER in signatures
        refused = await alice.send(room_id, "spam, spam")
        assert (refused.status, refused.errcode, refused.json["error"]) == (400, "M_FORBIDDEN", "This is spam")
        assert (await alice.put_state(room_id, "m.room.topic", {"topic": "t", "body": "state"})).status == 200
        assert policy.asked == ["hello", "spam, spam", "state"]
        assert [row["event_id"] for row in await persister.timeline(room_id)][-2:-1] == [sent]
        # A policy change needs no signature of the old server, and without a policy no event needs one.
        assert (await alice.put_state(room_id, "m.room.policy", {})).status == 200
        assert (await alice.send(room_id, "spam as you like")).status == 200
        assert len(policy.asked) == 3
        await check_stored(persister, room_id)


async def test_policy_server_without_members_is_not_queried(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a user of the policy server joins again, it is queried again."""
    async with policed(monkeypatch, postgres_module.dsn) as (persister, policy, room_id, graph, alice):
        await follow(persister, room_id, graph)
        for membership, is_asked in (("leave", False), ("join", True)):
            content = {"membership": membership}
            event = graph.make(sorted(graph.extremities), BOB, "m.room.member", content, BOB)
            graph.arrive(event)
            assert outcomes(await deliver(persister, room_id, [event])) == {event.event_id: "accepted"}
            policy.asked.clear()
            for _ in range(2):
                assert (await alice.send(room_id, "hello")).status == 200
            assert policy.asked == ["hello", "hello"] * is_asked
            await follow(persister, room_id, graph)


async def test_invalid_policy_answers_refuse_the_event(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with policed(monkeypatch, postgres_module.dsn) as (persister, _, room_id, _, alice):
        before = len(await persister.timeline(room_id))
        for what in ("wrong", "nothing", "list", "number", "other", "object", "long"):
            answer = await alice.send(room_id, what)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), what
        assert len(await persister.timeline(room_id)) == before
        sent = (await alice.send(room_id, "more")).event_id  # only the policy server's signature is kept
        signatures = orjson.loads((await stored_event(persister, sent))["json"])["signatures"]
        assert list(signatures["b.example"]) == [POLICY_KEY_ID] and "y" not in signatures


async def test_send_fails_while_the_policy_server_is_down(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with policed(monkeypatch, postgres_module.dsn) as (_, policy, room_id, _, alice):
        policy.port = 1
        answer = await alice.send(room_id, "hello")
        assert answer.status == 502 and answer.errcode
        policy_gone = await alice.put_state(room_id, "m.room.policy", {})
        assert policy_gone.status == 200, "the policy can be removed"
        assert (await alice.send(room_id, "hello")).status == 200


async def test_slow_policy_answer_does_not_delay_others(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event keeps the predecessors that it was built on, and a repeated request gets the same answer."""
    async with policed(monkeypatch, postgres_module.dsn) as (persister, policy, room_id, _, alice):
        end = (await alice.send(room_id, "before")).event_id
        slow = asyncio.create_task(alice.send(room_id, "slow", "same"))
        await policy.asked_slowly.wait()
        again = asyncio.create_task(alice.send(room_id, "slow", "same"))
        async with asyncio.timeout(5):
            for _ in range(3):
                assert (await alice.send(room_id, "meanwhile")).status == 200
        policy.slow.set()
        sent = (await slow).event_id
        assert (await again).event_id == sent and (await alice.send(room_id, "slow", "same")).event_id == sent
        assert policy.asked.count("slow") == 1
        row = await stored_event(persister, sent)
        assert parse_event(VERSION, row["json"]).prev_event_ids == (end,)
        assert row["status"] == 0 and row["ordinal"] is not None
        await check_stored(persister, room_id)


async def test_ban_during_a_policy_request_refuses_the_event(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with policed(monkeypatch, postgres_module.dsn) as (persister, policy, room_id, _, alice):
        carol = persister.user("carol")
        assert (await carol.act(room_id, "join")).status == 200
        slow = asyncio.create_task(carol.send(room_id, "slow"))
        await policy.asked_slowly.wait()
        assert (await alice.act(room_id, "ban", {"user_id": carol.user_id})).status == 200
        before = len(await persister.timeline(room_id))
        policy.slow.set()
        answer = await slow
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert len(await persister.timeline(room_id)) == before


async def test_own_server_can_be_the_policy_server(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its policy signature is added to the usual one."""
    async with policed(monkeypatch, postgres_module.dsn, SERVER) as (persister, _, room_id, _, alice):
        sent = (await alice.send(room_id, "hello")).event_id
        signatures = orjson.loads((await stored_event(persister, sent))["json"])["signatures"]
        assert len(signatures[SERVER]) == 2 and POLICY_KEY_ID in signatures[SERVER]


async def test_unsigned_remote_event_queries_the_policy_server_once(
    postgres_module: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy server is queried once for an event without a valid signature. Unsigned events are soft-failed."""
    async with policed(monkeypatch, postgres_module.dsn) as (persister, policy, room_id, graph, _):
        [policy_event] = await persister.sql(
            "SELECT event_id, json FROM events WHERE type = 'm.room.policy' ORDER BY event_nid DESC LIMIT 1"
        )
        graph.arrive(parse_event(VERSION, policy_event["json"]))
        previous = [policy_event["event_id"]]
        made = [
            graph.make(previous, BOB, "m.room.message", {"body": body}) for body in ("fine", "spam", "wrong", "had")
        ]
        signed = parse_event(VERSION, sign_pdu(VERSION, made[3].pdu, policy.name, KEY))
        results = outcomes(await deliver(persister, room_id, [*made[:3], signed]))
        assert [results[event.event_id] for event in made] == ["accepted", "soft_failed", "soft_failed", "accepted"]
        assert sorted(policy.asked) == ["fine", "spam", "wrong"]
        stored = orjson.loads((await stored_event(persister, made[0].event_id))["json"])
        assert POLICY_KEY_ID in stored["signatures"]["b.example"], "other servers get the signature from us"
        again = outcomes(await deliver(persister, room_id, made))
        assert again == results and len(policy.asked) == 3
        exempt = graph.make(previous, BOB, "m.room.policy", {}, "")
        assert outcomes(await deliver(persister, room_id, [exempt])) == {exempt.event_id: "accepted"}
        assert len(policy.asked) == 3
