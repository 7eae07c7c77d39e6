"""Events that clients may not send although the room's rules allow them."""

import asyncio
from typing import Any

import pytest

from shared.core.identifiers import EventId, RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.persister import User, event_persister
from tests.rigs.requests import Answer


async def put(user: User, room_id: RoomId, txn: str, content: Any, kind: str = "m.room.message") -> Answer:
    return await user.call("PUT", f"/rooms/{room_id}/send/{kind}/{txn}", content)


def about(rel_type: str, event_id: EventId, **more: Any) -> dict[str, Any]:
    return {"msgtype": "m.text", "body": "x", "m.relates_to": {"rel_type": rel_type, "event_id": event_id, **more}}


async def test_message_without_body_or_msgtype_is_refused(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        for number, content in enumerate(
            ({}, {"msgtype": "m.text"}, {"body": "x"}, {"msgtype": 1, "body": "x"}, {"msgtype": "m.x", "body": {}})
        ):
            answer = await put(alice, room_id, f"m{number}", content)
            assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), content
            # Encrypted events and other types are not checked.
            assert (await put(alice, room_id, f"e{number}", content, "m.room.encrypted")).status == 200
        assert (await put(alice, room_id, "ok", {"msgtype": "m.own", "body": ""})).status == 200


@pytest.mark.parametrize("version", ["1", "9", "12"])
async def test_power_levels_as_strings_are_refused(postgres_module: TestDatabase, version: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room(room_version=version)
        levels = await persister.content(room_id, "m.room.power_levels")
        for change in (
            {"ban": "50"},
            {"users": {**levels["users"], "@b:c": "5"}},
            {"events": {"x": "5"}},
            {"notifications": {"room": "50"}},
        ):
            answer = await alice.put_state(room_id, "m.room.power_levels", {**levels, **change})
            assert (answer.status, answer.errcode) == (400, "M_BAD_JSON"), change
            made = await alice.call(
                "POST", "/createRoom", {"room_version": version, "power_level_content_override": change}
            )
            assert made.status == 400
        assert (await alice.put_state(room_id, "m.room.power_levels", {**levels, "ban": 51})).status == 200


async def test_duplicate_reaction_is_refused(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(preset="public_chat")
        await bob.act(room_id, "join")
        event_id = (await alice.send(room_id, "hello")).event_id
        liked, kind = about("m.annotation", event_id, key="+1"), "m.reaction"
        first = await put(alice, room_id, "r1", liked, kind)
        assert first.status == 200
        twice = await put(alice, room_id, "r2", liked, kind)
        assert (twice.status, twice.errcode) == (400, "M_DUPLICATE_ANNOTATION")
        # A retry is not a second reaction.
        assert (await put(alice, room_id, "r1", liked, kind)).body == first.body
        assert (await put(alice, room_id, "r3", about("m.annotation", event_id, key="-1"), kind)).status == 200
        assert (await put(alice, room_id, "r4", liked, "org.other")).status == 200
        assert (await put(bob, room_id, "r5", liked, kind)).status == 200
        stranger = persister.user("stranger")
        assert (await put(stranger, room_id, "r6", liked, kind)).errcode == "M_FORBIDDEN"
        await alice.redact(room_id, first.event_id)
        assert (await put(alice, room_id, "r7", liked, kind)).status == 200
        at_once = await asyncio.gather(
            *(put(bob, room_id, f"s{n}", about("m.annotation", event_id, key="x"), kind) for n in range(5))
        )
        assert sorted(answer.status for answer in at_once) == [200, 400, 400, 400, 400]


async def test_retry_after_memory_expired_is_answered_from_the_database(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        event_id = (await alice.send(room_id, "hello")).event_id
        liked = about("m.annotation", event_id, key="+1")
        first = await put(alice, room_id, "r1", liked, "m.reaction")
        await persister.sql("UPDATE client_transactions SET created_ms = created_ms - 7200000")
    async with event_persister(postgres_module.dsn) as persister:
        again = await put(persister.user("alice"), room_id, "r1", liked, "m.reaction")
        assert again.body == first.body


async def test_thread_in_a_thread_is_refused(postgres_module: TestDatabase) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        root = (await alice.send(room_id, "root")).event_id
        reply = await put(alice, room_id, "t1", about("m.thread", root))
        assert reply.status == 200
        nested = await put(alice, room_id, "t2", about("m.thread", reply.event_id))
        assert (nested.status, nested.errcode) == (400, "M_UNKNOWN")
        # A rich reply has no rel_type and may become a root. An unknown event may too.
        rich = {"msgtype": "m.text", "body": "x", "m.relates_to": {"m.in_reply_to": {"event_id": root}}}
        rich_id = (await put(alice, room_id, "t3", rich)).event_id
        assert (await put(alice, room_id, "t4", about("m.thread", rich_id))).status == 200
        assert (await put(alice, room_id, "t5", about("m.thread", EventId("$unknown")))).status == 200
        # A redacted event has no relation any more.
        await alice.redact(room_id, reply.event_id)
        assert (await put(alice, room_id, "t6", about("m.thread", reply.event_id))).status == 200


async def test_state_that_no_user_may_set_gets_400(postgres_module: TestDatabase) -> None:
    """A second create event, and power levels of version 12 that name a creator, get 400 as from other servers."""
    async with event_persister(postgres_module.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        room_id = await alice.create_room(room_version="12", preset="public_chat")
        named = {"users": {alice.user_id: 100}}
        for kind, content in (("m.room.create", {}), ("m.room.power_levels", named)):
            answer = await alice.put_state(room_id, kind, content)
            assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM")
        assert f"creator {alice.user_id} must not appear" in answer.json["error"]
        assert (await bob.put_state(room_id, "m.room.power_levels", named)).status == 403, "non-members get 403"
        room_id = await alice.create_room(room_version="11")
        assert (await alice.put_state(room_id, "m.room.power_levels", named)).status == 200
