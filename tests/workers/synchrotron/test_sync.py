"""GET /sync against real PostgreSQL, fed by replication frames alone."""

import asyncio
from typing import Any
from urllib.parse import quote

import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet, soon
from tests.workers.synchrotron.sliding_client import merged, merged_list

LIMIT_3 = {"room": {"timeline": {"limit": 3}}}


def bodies(section: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in section["timeline"]["events"]]


def keys(section: Any, part: str = "state") -> set[tuple[str, str]]:
    return {(event["type"], event["state_key"]) for event in section[part]["events"]}


async def test_message_wakes_the_members_and_costs_no_query(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await bob.writes.send(room_id, "warm")
        tokens = {}
        for client in (alice, bob, carol):
            tokens[client.user_id] = (await client.sync())["next_batch"]
        process = world.synchrotrons[0]
        waiting = {
            client.user_id: asyncio.create_task(client.sync(tokens[client.user_id], timeout=10_000))
            for client in (alice, bob, carol)
        }
        for task in waiting.values():
            await soon(task)
        assert process.metric("skep_sync_waiting") == 3
        queries = process.metric("skep_sync_queries_total")
        sent = await alice.writes.send(room_id, "hello", txn="t")
        for client in (alice, bob):
            answer = await waiting[client.user_id]
            (event,) = answer["rooms"]["join"][room_id]["timeline"]["events"]
            assert event["event_id"] == sent.event_id
            assert event["unsigned"].get("transaction_id") == ("t" if client is alice else None)
        assert process.metric("skep_sync_queries_total") == queries
        assert process.metric("skep_sync_wake_ups_total") == 2
        assert not waiting[carol.user_id].done()
        waiting[carol.user_id].cancel()


async def test_sync_without_updates_waits_for_the_timeout(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        began = asyncio.get_running_loop().time()
        answer = await alice.sync(token, timeout=300)
        assert 0.29 < asyncio.get_running_loop().time() - began < 10
        assert not any(answer["rooms"].values())
        full = await alice.sync(answer["next_batch"], timeout=10_000, full_state=True)
        assert len(full["rooms"]["join"]) == 1  # full_state never waits


@pytest.mark.parametrize("prefix", [None, "", "org.matrix.msc4222."])
async def test_gap_state_and_prev_batch(postgres: TestDatabase, prefix: str | None) -> None:
    """prefix: of the parameter, and so of the response's key. None: without the parameter."""
    wanted = {} if prefix is None else {f"{prefix}use_state_after": True}
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        await alice.writes.put_state(room_id, "m.room.name", {"name": "in the gap"})
        for number in range(4):
            await alice.writes.send(room_id, str(number))
        await alice.writes.put_state(room_id, "m.room.topic", {"topic": "in the timeline"})
        answer = await alice.sync(token, filter=LIMIT_3, **wanted)
        section = answer["rooms"]["join"][room_id]
        assert bodies(section) == ["2", "3", "m.room.topic"]
        assert section["timeline"]["limited"]
        if prefix is not None:
            assert "state" not in section
            assert keys(section, f"{prefix}state_after") == {("m.room.name", ""), ("m.room.topic", "")}
        else:
            assert not any("state_after" in key for key in section)
            assert keys(section) == {("m.room.name", "")}
        page = await alice.room(room_id, "messages", dir="b", limit=3, **{"from": section["timeline"]["prev_batch"]})
        assert [e["content"].get("body", e["type"]) for e in page.json["chunk"]] == [
            "1",
            "0",
            "m.room.name",
        ]
        page = await alice.room(room_id, "messages", dir="b", limit=1, **{"from": answer["next_batch"]})
        assert [e["type"] for e in page.json["chunk"]] == ["m.room.topic"]


async def test_lazy_members_are_sent_once_per_device(postgres: TestDatabase) -> None:
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await carol.writes.act(room_id, "join")
        await alice.writes.send(room_id, "1")
        first = await alice.sync(filter=lazy)
        section = first["rooms"]["join"][room_id]
        assert section["summary"]["m.joined_member_count"] == 3
        assert sorted(section["summary"]["m.heroes"]) == [bob.user_id, carol.user_id]
        members = {key for kind, key in keys(section) if kind == "m.room.member"}
        assert members == {alice.user_id, bob.user_id, carol.user_id}  # her own and the heroes'
        await bob.writes.send(room_id, "2")
        second = await alice.sync(first["next_batch"], filter=lazy)
        assert keys(second["rooms"]["join"][room_id]) == set()  # bob's was sent and acknowledged
        other = world.user("alice", "OTHER")
        again = await other.sync(first["next_batch"], filter=lazy)
        assert keys(again["rooms"]["join"][room_id]) == {("m.room.member", bob.user_id)}
        everything = {"room": {"state": {"lazy_load_members": True, "include_redundant_members": True}}}
        await bob.writes.send(room_id, "3")
        third = await alice.sync(second["next_batch"], filter=everything)
        assert keys(third["rooms"]["join"][room_id]) == {("m.room.member", bob.user_id)}


async def test_lazy_members_are_sent_again_to_a_user_who_rejoined(postgres: TestDatabase) -> None:
    """The client may have dropped the room: in classic sync as in sliding sync."""
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    lists = {"l": merged_list(5, {"include": [{"type": "m.room.name"}], "lazy_members": True})}
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await alice.writes.send(room_id, "1")
        answer = await bob.sync(filter=lazy)
        sliding = await merged(bob, lists=lists)
        for action in ("leave", "join"):
            await bob.writes.act(room_id, action)
            await world.settle()
            answer = await bob.sync(answer["next_batch"], filter=lazy)
            sliding = await merged(bob, sliding["pos"], lists=lists)
        assert sliding["rooms"][room_id]["initial"]
        again = await bob.sync(answer["next_batch"], filter=lazy, full_state=True)
        for events in (
            answer["rooms"]["join"][room_id]["state"]["events"],
            again["rooms"]["join"][room_id]["state"]["events"],
            sliding["rooms"][room_id]["required_state"],
        ):
            assert alice.user_id in {event["state_key"] for event in events if event["type"] == "m.room.member"}


async def test_invite_reject_leave_kick_and_forget(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        start = (await bob.sync())["next_batch"]
        room_id = await alice.writes.create_room(name="den", invite=[bob.user_id])
        invited = await bob.sync(start)
        stripped = invited["rooms"]["invite"][room_id]["invite_state"]["events"]
        assert {event["type"] for event in stripped} >= {"m.room.create", "m.room.name", "m.room.member"}
        assert all(set(event) == {"content", "sender", "state_key", "type"} for event in stripped)
        await bob.writes.act(room_id, "leave")
        rejected = await bob.sync(invited["next_batch"])
        section = rejected["rooms"]["leave"][room_id]
        after = await bob.sync(invited["next_batch"], use_state_after=True)
        assert keys(after["rooms"]["leave"][room_id], "state_after") == {("m.room.member", bob.user_id)}
        assert [event["state_key"] for event in section["timeline"]["events"]] == [bob.user_id]
        assert section["state"] == {"events": []}  # bob never was in the room, and sees nothing of it
        await alice.writes.act(room_id, "invite", {"user_id": bob.user_id})
        await bob.writes.act(room_id, "join")
        await alice.writes.send(room_id, "hello")
        joined = await bob.sync(rejected["next_batch"], filter=LIMIT_3)
        section = joined["rooms"]["join"][room_id]
        assert ("m.room.create", "") in keys(section)  # new to bob: the whole state
        await alice.writes.act(room_id, "kick", {"user_id": bob.user_id})
        await alice.writes.send(room_id, "secret")
        kicked = await bob.sync(joined["next_batch"])
        section = kicked["rooms"]["leave"][room_id]
        assert section["timeline"]["events"][-1]["content"]["membership"] == "leave"
        assert "secret" not in bodies(section)
        after = await bob.sync(kicked["next_batch"])
        assert not any(after["rooms"].values())  # sent once
        left = {"room": {"include_leave": True}}
        assert room_id in (await bob.sync(filter=left))["rooms"]["leave"]
        assert not (await bob.sync())["rooms"]["leave"]
        await bob.writes.act(room_id, "forget")
        assert not (await bob.sync(filter=left))["rooms"]["leave"]


async def test_receipts_typing_and_account_data(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        event_id = (await alice.writes.send(room_id, "read me")).event_id
        initial = await alice.sync()
        token = initial["next_batch"]
        (rules,) = initial["account_data"]["events"]
        assert rules["type"] == "m.push_rules"
        await world.set_receipt(room_id, bob.user_id, event_id)
        await world.set_receipt(room_id, bob.user_id, event_id, "m.read.private", "main")
        answer = await alice.sync(token)
        (receipt,) = answer["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert receipt["content"] == {event_id: {"m.read": {bob.user_id: {"ts": 1000}}}}
        mine = (await bob.sync())["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert {"m.read.private": {bob.user_id: {"ts": 1000, "thread_id": "main"}}} in [
            each["content"][event_id] for each in mine
        ]
        now_ms = world.synchrotrons[0].foundation.clock.now_ms()
        world.set_typing(room_id, bob.user_id, now_ms + 300)
        typing = await alice.sync(answer["next_batch"], timeout=5000)
        (event,) = typing["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert event == {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}
        ended = await alice.sync(typing["next_batch"], timeout=5000)  # without another row from its writer
        (event,) = ended["rooms"]["join"][room_id]["ephemeral"]["events"]
        assert event["content"] == {"user_ids": []}
        await world.set_account_data(alice.user_id, RoomId(""), "x.global", {"a": 1})
        await world.set_account_data(alice.user_id, room_id, "m.tag", {"tags": {"m.favourite": {}}})
        answer = await alice.sync(ended["next_batch"])
        assert answer["account_data"]["events"] == [{"type": "x.global", "content": {"a": 1}}]
        assert [e["type"] for e in answer["rooms"]["join"][room_id]["account_data"]["events"]] == ["m.tag"]
        await world.set_account_data(
            alice.user_id, RoomId(""), "m.ignored_user_list", {"ignored_users": {bob.user_id: {}}}
        )
        path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/spam"  # a notice notifies no user
        assert (await bob.writes.call("PUT", path, {"msgtype": "m.notice", "body": "spam"})).status == 200
        answer = await alice.sync(answer["next_batch"])
        assert room_id not in answer["rooms"]["join"]


async def test_redaction_applies_to_events_in_memory(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        event_id = (await alice.writes.send(room_id, "regretted")).event_id
        await alice.sync()
        await alice.writes.redact(room_id, event_id, {"reason": "typo"})
        section = (await alice.sync())["rooms"]["join"][room_id]
        redacted = next(e for e in section["timeline"]["events"] if e["event_id"] == event_id)
        assert redacted["content"] == {}
        assert redacted["unsigned"]["redacted_because"]["content"]["reason"] == "typo"
        read = await alice.room(room_id, f"event/{event_id}")
        assert read.json["content"] == {}


async def test_malformed_future_and_unreached_tokens(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        for bad in ("x", "s1_e", "s1_e999.1", "s1_e1.99999999", "p1-1", "s1_e1.1.2-", "s" * 20_000):
            answer = await alice.get("/sync", since=bad)
            assert (answer.status, answer.errcode) == (400, "M_INVALID_PARAM"), bad
        # The second process loses frames. With the first one's token it reads Postgres.
        first, second = world.user("alice"), world.user("alice")
        second.synchrotron = 1
        await second.sync()
        subscribers = world.bus._subscribers
        kept = subscribers.pop(1)
        await alice.writes.send(room_id, "unheard")
        ahead = await first.sync(token)
        subscribers.append(kept)
        answer = await second.sync(ahead["next_batch"])
        assert not answer["rooms"]["join"]
        old = await second.sync(token)
        assert bodies(old["rooms"]["join"][room_id]) == ["unheard"]


async def test_filters(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        other_id = await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        await alice.writes.send(room_id, "one")
        await alice.writes.send(other_id, "two")
        await alice.writes.put_state(room_id, "m.room.name", {"name": "held back"})
        wanted = {
            "room": {"rooms": [room_id], "timeline": {"types": ["m.room.message"]}},
            "event_fields": ["type"],
        }
        rooms = (await alice.sync(token, filter=wanted))["rooms"]["join"]
        assert list(rooms) == [room_id]
        assert rooms[room_id]["timeline"]["events"] == [{"type": "m.room.message"}]
        # The timeline filter hides the name. The client's state is right all the same.
        assert rooms[room_id]["state"]["events"] == [{"type": "m.room.name"}]
        federation = {"event_format": "federation", "room": {"timeline": {"limit": 1}}}
        section = (await alice.sync(filter=federation))["rooms"]["join"][room_id]
        for event in (*section["timeline"]["events"], *section["state"]["events"]):
            assert {"auth_events", "event_id", "hashes", "prev_events", "signatures", "unsigned"} <= set(event)
        for bad in ("{", '{"room": 1}', "77", "x"):
            assert (await alice.get("/sync", filter=bad)).status == 400


async def test_heroes_are_for_rooms_without_name_and_alias(postgres: TestDatabase) -> None:
    """In a named room they only cost member events."""
    lazy = {"room": {"state": {"lazy_load_members": True}, "timeline": {"limit": 1}}}
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat", name="Bees")
        other = await alice.writes.create_room(preset="public_chat", room_alias_name="bees")
        for joined in (room_id, other):
            await bob.writes.act(joined, "join")
            await alice.writes.send(joined, "1")
        first = await alice.sync(filter=lazy)
        for joined in (room_id, other):
            section = first["rooms"]["join"][joined]
            assert section["summary"] == {"m.joined_member_count": 2, "m.invited_member_count": 0}
            assert ("m.room.member", bob.user_id) not in keys(section)
        await alice.writes.put_state(room_id, "m.room.name", {"name": ""})
        section = (await alice.sync(first["next_batch"], filter=lazy))["rooms"]["join"][room_id]
        assert section["summary"]["m.heroes"] == [bob.user_id]
        assert ("m.room.member", bob.user_id) in keys(section)


@pytest.mark.parametrize("after", [False, True])
async def test_room_joined_and_left_between_two_syncs_comes_with_its_state(postgres: TestDatabase, after: bool) -> None:
    """The client never saw the room, so it gets the state before the timeline, as for a joined room."""
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat", name="Bees")
        for number in range(30):
            await alice.writes.send(room_id, str(number))
        token = (await bob.sync())["next_batch"]
        await bob.writes.act(room_id, "join")
        await bob.writes.act(room_id, "leave")
        await alice.writes.put_state(room_id, "m.room.topic", {"topic": "without bob"})
        answer = await bob.sync(token, **({"use_state_after": True} if after else {}))
        left = answer["rooms"]["leave"][room_id]
        state = {event["type"]: event["content"] for event in left["state_after" if after else "state"]["events"]}
        assert state["m.room.name"] == {"name": "Bees"}
        assert {"m.room.create", "m.room.power_levels", "m.room.member"} <= state.keys()
        assert "m.room.topic" not in state
        assert left["timeline"]["events"][-1]["content"]["membership"] == "leave"
        # A later ban has no state: bob may not see changes since.
        await alice.writes.act(room_id, "ban", {"user_id": bob.user_id})
        left = (await bob.sync(answer["next_batch"]))["rooms"]["leave"][room_id]
        assert [event["content"].get("membership") for event in left["timeline"]["events"]] == ["ban"]
        assert left["state"]["events"] == []
