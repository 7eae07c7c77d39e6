"""Rooms are created, joined and written to: stored rows, announced rows, and statements per send."""

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from shared.core.events import parse_event
from shared.core.identifiers import RoomId
from shared.core.room_versions import ROOM_VERSIONS, get_room_version
from shared.core.signing import parse_signing_key
from shared.metrics.persister import PersisterMetrics
from shared.operations.rule_switches import rule_switches
from tests.fix_servers import TestDatabase
from tests.rigs.persister import event_persister
from tests.rigs.worker import SERVER
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.loading.rooms_in_memory import load_room
from workers.event_persister.room.event_builder import Identity


@pytest.mark.parametrize("version", ROOM_VERSIONS)
async def test_create_join_and_send_in_every_room_version(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(
            room_version=version, preset="public_chat", name="A room", invite=[bob.user_id]
        )
        assert (await bob.act(room_id, "join")).json == {"room_id": room_id}
        event_id = (await bob.send(room_id, "hello")).event_id
        rows = await persister.timeline(room_id)
        assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
        assert [row["type"] for row in rows[:3]] == ["m.room.create", "m.room.member", "m.room.power_levels"]
        assert rows[-1]["event_id"] == event_id
        for row in rows:
            # The stored JSON is a PDU of this version with the returned id.
            assert parse_event(get_room_version(version), row["json"]).event_id == row["event_id"]
        announced = persister.bus.rows()
        assert [row.event_id for row in announced] == [row["event_id"] for row in rows]
        assert [row.position for row in announced] == sorted(row["position"] for row in rows)
        # Another process with empty memory continues where this one stopped.
        async with event_persister(postgres_module.dsn) as second:
            other = second.user("bob")
            later = (await other.send(room_id, "again")).event_id
            assert (await other.put_state(room_id, "m.room.topic", {"topic": "t"})).status == 403
            [new] = second.bus.rows()
            assert (new.prior_writer, new.prior_position) == (persister.foundation.lease, announced[-1].position)
            assert parse_event(get_room_version(version), new.json).prev_event_ids == (event_id,)
            assert new.event_id == later


async def test_usual_send_is_one_statement(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        database, writer = persister.foundation.database, persister.foundation.writer
        before = database.statements, writer.statements
        for number in range(5):
            assert (await alice.send(room_id, f"message {number}")).status == 200
        assert (database.statements, writer.statements) == (before[0], before[1] + 5)
        # Concurrent sends share statements: perhaps the first alone, and the others while it runs.
        answers = await asyncio.gather(*(alice.send(room_id, f"more {n}") for n in range(40)))
        assert len({answer.event_id for answer in answers}) == 40
        assert database.statements == before[0]
        assert writer.statements <= before[1] + 7


async def test_server_acl_is_in_memory_when_a_room_is_read(postgres_module: TestDatabase) -> None:
    """Every event of another server is checked against it."""
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        acl = {"allow": ["*"], "deny": ["evil.example"]}
        assert (await alice.put_state(room_id, "m.room.server_acl", acl)).status == 200
        foundation = persister.foundation
        signing_key = parse_signing_key(foundation.config.signing.key.reveal().splitlines()[0])
        push_rules = PushRules(
            foundation.database, rule_switches(foundation.config), PersisterMetrics(CollectorRegistry())
        )
        room = await load_room(foundation.database, Identity(SERVER, signing_key), RoomId(room_id), 0, push_rules)
        assert room is not None
        event = room.state.event("m.room.server_acl")
        assert event is not None and event.content == acl
