"""Erased senders in /sync, /state and /members, and hidden invitations. Spec: POST /account/deactivate."""

import time
from typing import Any

from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, World, fleet
from tests.workers.synchrotron.sliding_client import deployed

FEDERATION = {"event_format": "federation"}


async def erase(world: World, user: Client) -> None:
    await world.database.execute("INSERT INTO erased_users VALUES ($1, $2)", user.user_id, time.time_ns() // 1_000_000)


def by_sender(events: list[Any], sender: str) -> dict[str, Any]:
    """Return the contents of a user's events by type."""
    return {event["type"]: event["content"] for event in events if event["sender"] == sender}


async def every_way(client: Client, room_id: str) -> list[dict[str, Any]]:
    """Return the state and timeline that each endpoint shows to the client."""
    whole = (await client.sync())["rooms"]["join"][room_id]
    after = (await client.sync(use_state_after="true"))["rooms"]["join"][room_id]
    raw = (await client.sync(filter=FEDERATION))["rooms"]["join"][room_id]
    lists = {"a": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["*", "*"]]}}
    sliding = (await deployed(client, lists=lists))["rooms"][room_id]
    context_of = whole["timeline"]["events"][-1]["event_id"]
    return [
        *({"state": part["state"]["events"], "timeline": part["timeline"]["events"]} for part in (whole, raw)),
        {"state": after["state_after"]["events"], "timeline": after["timeline"]["events"]},
        {"state": sliding["required_state"], "timeline": sliding["timeline"]},
        {"state": (await client.room(room_id, "state")).json, "timeline": []},
        {"state": (await client.room(room_id, f"context/{context_of}")).json["state"], "timeline": []},
        {"state": (await client.room(room_id, "members")).json["chunk"], "timeline": []},
    ]


async def test_users_who_join_later_see_erased_senders_redacted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, eve = (world.user(name) for name in ("alice", "bob", "eve"))
        room_id = await alice.writes.create_room(preset="public_chat")
        own = {"membership": "join", "displayname": "Bob", "org.x": 1}
        await bob.writes.put_state(room_id, "m.room.member", own, bob.user_id)
        await alice.writes.put_state(room_id, "m.room.power_levels", {"state_default": 0})
        assert (await bob.writes.put_state(room_id, "m.room.topic", {"topic": "by Bob"})).status == 200
        await bob.writes.put_state(room_id, "org.example", {"first": "by Bob"})
        await alice.writes.put_state(room_id, "org.example", {"now": "by Alice"})
        await bob.writes.send(room_id, "said by Bob")
        await alice.writes.send(room_id, "said by Alice")
        since = (await alice.sync())["next_batch"]
        await bob.writes.act(room_id, "leave")
        await erase(world, bob)
        await eve.writes.act(room_id, "join")
        await world.settle()

        for place, answer in enumerate(await every_way(eve, room_id)):
            events = [*answer["state"], *answer["timeline"]]
            told = by_sender(events, bob.user_id)
            assert told["m.room.member"] == {"membership": "leave"}, place
            for kind in ("m.room.topic", "org.example", "m.room.message"):
                assert told.get(kind, {}) == {}, (place, kind)
            assert "by Bob" not in str([event.get("unsigned", {}).get("prev_content") for event in events]), place
            assert "by Bob" not in str(events) and "displayname" not in str(told), place
            if answer["timeline"]:
                assert by_sender(events, alice.user_id)["m.room.message"]["body"] == "said by Alice"
        topic = await eve.room(room_id, "state/m.room.topic")
        assert topic.json == {}
        # Members keep what they had, and get the leave event only.
        for answer in await every_way(alice, room_id):
            if answer["timeline"]:
                events = [*answer["state"], *answer["timeline"]]
                assert by_sender(events, bob.user_id)["m.room.topic"] == {"topic": "by Bob"}
                assert by_sender(events, bob.user_id)["m.room.message"]["body"] == "said by Bob"
        news = (await alice.sync(since))["rooms"]["join"][room_id]["timeline"]["events"]
        assert [(event["sender"], event["type"]) for event in news] == [
            (bob.user_id, "m.room.member"),
            (eve.user_id, "m.room.member"),
        ]


async def test_latest_edit_and_reply_of_an_erased_sender_are_redacted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, eve = (world.user(name) for name in ("alice", "bob", "eve"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        root = (await alice.writes.send(room_id, "root")).event_id
        content = {
            "msgtype": "m.text",
            "body": "by Bob",
            "m.relates_to": {"rel_type": "m.thread", "event_id": root},
        }
        await bob.writes.call("PUT", f"/rooms/{room_id}/send/m.room.message/thread", content)
        await erase(world, bob)
        await eve.writes.act(room_id, "join")
        await world.settle()
        events = (await eve.sync())["rooms"]["join"][room_id]["timeline"]["events"]
        [shown] = [event for event in events if event["event_id"] == root]
        latest = shown["unsigned"]["m.relations"]["m.thread"]["latest_event"]
        assert (latest["sender"], latest["content"].get("body")) == (bob.user_id, None)


async def test_new_messages_need_no_query_for_erased_users(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await erase(world, alice)
        await bob.writes.send(room_id, "warm")
        since = (await bob.sync())["next_batch"]
        queries = world.synchrotrons[0].metric("skep_sync_queries_total")
        await alice.writes.send(room_id, "hello")
        answer = await bob.sync(since, timeout=5000)
        assert answer["rooms"]["join"][room_id]["timeline"]["events"][0]["content"]["body"] == "hello"
        assert world.synchrotrons[0].metric("skep_sync_queries_total") == queries


async def test_blocked_invites_are_not_sent(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        first = await alice.writes.create_room(invite=[bob.user_id])
        config = "m.invite_permission_config"
        lists = {"lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}
        for content, told in (({"default_action": "block"}, False), ({}, True), ({"default_action": "x"}, True)):
            await world.set_account_data(bob.user_id, "", config, content)
            answer = await bob.sync()
            assert (first in answer["rooms"].get("invite", {})) is told, content
            assert (first in (await deployed(bob, **lists))["rooms"]) is told, content
            # Other readers see the invitation.
            state = await alice.room(first, f"state/m.room.member/{bob.user_id}")
            assert state.json["membership"] == "invite"
