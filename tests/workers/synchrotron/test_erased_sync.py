"""Erased senders in /sync, /state and /members, and hidden invitations. Spec: POST /account/deactivate."""

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from shared.core.identifiers import RoomId, UserId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, World, fleet
from tests.workers.synchrotron.sliding_client import deployed, merged
from tests.workers.synchrotron.test_relations import v1

FEDERATION = {"event_format": "federation"}


async def erase(world: World, user: Client) -> None:
    await world.database.execute("INSERT INTO erased_users VALUES ($1, $2)", user.user_id, time.time_ns() // 1_000_000)


def by_sender(events: list[Any], sender: UserId) -> dict[str, Any]:
    """Return the contents of a user's events by type."""
    return {event["type"]: event["content"] for event in events if event["sender"] == sender}


async def every_way(client: Client, room_id: RoomId) -> list[dict[str, Any]]:
    """Return the state and timeline that each endpoint shows to the client."""
    whole = (await client.sync())["rooms"]["join"][room_id]
    after = (await client.sync(use_state_after="true"))["rooms"]["join"][room_id]
    raw = (await client.sync(filter=FEDERATION))["rooms"]["join"][room_id]
    lists: dict[str, Any] = {"a": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["*", "*"]]}}
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
        lists: dict[str, Any] = {"lists": {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}}
        for content, told in (({"default_action": "block"}, False), ({}, True), ({"default_action": "x"}, True)):
            await world.set_account_data(bob.user_id, RoomId(""), config, content)
            answer = await bob.sync()
            assert (first in answer["rooms"].get("invite", {})) is told, content
            assert (first in (await deployed(bob, **lists))["rooms"]) is told, content
            # Other readers see the invitation.
            state = await alice.room(first, f"state/m.room.member/{bob.user_id}")
            assert state.json["membership"] == "invite"


async def what_others_show(client: Client, room_id: RoomId, space_id: str) -> dict[str, Any]:
    """Return what each endpoint shows of a room beside its timeline and state."""
    lists = {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}
    sliding = await deployed(client, lists=lists)
    search = {"search_term": "Alice", "include_state": True, "event_context": {"include_profile": True}}
    found = (await client.post("/search", {"search_categories": {"room_events": search}})).json
    return {
        "initial sync": (await client.room(room_id, "initialSync")).json.get("state", []),
        "messages": (await client.room(room_id, "messages", dir="b", filter='{"lazy_load_members":true}')).json,
        "search": found["search_categories"]["room_events"],
        "joined": (await client.room(room_id, "joined_members")).json,
        "sliding": sliding["rooms"].get(room_id),
        "summary": (await v1(client, f"/room_summary/{quote(room_id)}")).json,
        "hierarchy": (await v1(client, f"/rooms/{quote(space_id)}/hierarchy")).json,
        "public rooms": (await client.get("/publicRooms")).json,
    }


async def test_words_of_erased_users_are_shown_nowhere_to_later_readers(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, eve, carol = (world.user(name) for name in ("alice", "bob", "eve", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat", visibility="public")
        space_id = await alice.writes.create_room(
            preset="public_chat", creation_content={"type": "m.space"}, name="Hive"
        )
        child = {"via": ["example.org"]}
        assert (await alice.writes.put_state(space_id, "m.space.child", child, room_id)).status == 200
        await alice.writes.put_state(room_id, "m.room.power_levels", {"state_default": 0})
        own = {"membership": "join", "displayname": "by Bob", "avatar_url": "mxc://by/Bob"}
        await bob.writes.put_state(room_id, "m.room.member", own, bob.user_id)
        words = {
            "m.room.topic": {"topic": "by Bob"},
            "m.room.name": {"name": "by Bob"},
            "m.room.avatar": {"url": "by Bob"},
        }
        for kind, content in words.items():
            assert (await bob.writes.put_state(room_id, kind, content)).status == 200
        await alice.writes.send(room_id, "said by Alice")
        await erase(world, bob)
        await eve.writes.act(room_id, "join")
        await eve.writes.act(space_id, "join")
        await alice.writes.act(room_id, "invite", {"user_id": carol.user_id})
        await world.settle()

        for place, answer in (await what_others_show(eve, room_id, space_id)).items():
            assert answer and "errcode" not in answer, place
            assert "by Bob" not in str(answer) and "mxc://by/Bob" not in str(answer), place
        shown = await what_others_show(alice, room_id, space_id)
        for place in ("initial sync", "search", "sliding", "summary", "hierarchy", "public rooms"):
            assert "by Bob" in str(shown[place]), place
        # A filter must not tell whether the name has these words.
        for term, is_erased in (("by bob", True), ("hive", False)):
            named = {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": [],
                           "filters": {"room_name_like": term}}}  # fmt: skip
            assert bool((await deployed(eve, lists=named))["lists"]["a"]["count"]) is not is_erased, term
        # Readers who are only invited, and those without an account.
        invited = (await carol.sync())["rooms"]["invite"][room_id]
        lists = {"a": {"ranges": [[0, 9]], "timeline_limit": 1, "required_state": []}}
        stripped = (await deployed(carol, lists=lists))["rooms"][room_id]
        legacy = (await carol.get("/initialSync")).json["rooms"]
        for answer in (invited, stripped, legacy):
            assert answer and "by Bob" not in str(answer)


async def test_upgraded_room_has_no_words_of_erased_users(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat", name="by Alice")
        await bob.writes.act(room_id, "join")
        levels = {"events": {"m.room.topic": 0}}
        assert (await alice.writes.put_state(room_id, "m.room.power_levels", levels)).status == 200
        assert (await bob.writes.put_state(room_id, "m.room.topic", {"topic": "by Bob"})).status == 200
        await erase(world, bob)
        answer = await alice.writes.call("POST", f"/rooms/{room_id}/upgrade", {"new_version": "11"})
        assert answer.status == 200, answer.body
        await world.settle()
        state = (await alice.room(answer.json["replacement_room"], "state")).json
        contents = {event["type"]: event["content"] for event in state}
        assert contents["m.room.name"] == {"name": "by Alice"}
        assert "m.room.topic" not in contents


async def test_upgraded_room_has_no_redacted_reasons_of_bans(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat")
        for user in (bob, carol):
            await alice.writes.act(room_id, "ban", {"user_id": user.user_id, "reason": "words"})
        ban = (await alice.room(room_id, f"state/m.room.member/{bob.user_id}", format="event")).json["event_id"]
        assert (await alice.writes.redact(room_id, ban)).status == 200
        answer = await alice.writes.call("POST", f"/rooms/{room_id}/upgrade", {"new_version": "11"})
        assert answer.status == 200, answer.body
        await world.settle()
        state = (await alice.room(answer.json["replacement_room"], "state")).json
        bans = {event["state_key"]: event["content"] for event in state if event["content"].get("membership") == "ban"}
        assert bans == {bob.user_id: {"membership": "ban"}, carol.user_id: {"membership": "ban", "reason": "words"}}


async def redactions_in_every_way(client: Client, room_id: RoomId, event_id: str) -> dict[str, list[Any]]:
    """Return the reasons of redactions within events, None for none, that each endpoint shows."""
    old = await client.get("/initialSync", limit="20")
    lists: dict[str, Any] = {"a": {"ranges": [[0, 9]], "timeline_limit": 20, "required_state": [["*", "*"]]}}
    merged_lists = {"a": {"range": [0, 9], "timeline_limit": 20, "required_state": {"include": [{}]}}}
    answers = {
        "sync": await client.sync(),
        "sync, state after": await client.sync(use_state_after="true"),
        "sync, federation": await client.sync(filter=FEDERATION),
        "sliding": await deployed(client, lists=lists),
        "sliding, merged": await merged(client, lists=merged_lists),
        "initialSync": old.json,
        **{
            path: (await client.room(room_id, path, limit="20", dir="b")).json
            for path in ("messages", "state", "initialSync", f"event/{event_id}", f"context/{event_id}")
        },
        "event": (await client.get(f"/events/{quote(event_id)}")).json,
    }
    return {name: list(_reasons(answer)) for name, answer in answers.items()}


def _reasons(answer: Any) -> Iterator[str | None]:
    if isinstance(answer, dict):
        if "redacted_because" in answer:
            yield answer["redacted_because"]["content"].get("reason")
        for value in answer.values():
            yield from _reasons(value)
    elif isinstance(answer, list):
        for value in answer:
            yield from _reasons(value)


async def test_reasons_of_redactions_are_for_those_who_may_see_the_redaction(postgres: TestDatabase) -> None:
    """The event within `redacted_because` is as erased, redacted and hidden as by itself."""
    async with fleet(postgres.dsn) as world:
        alice, bob, eve = (world.user(name) for name in ("alice", "bob", "eve"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        levels = {"state_default": 0}
        assert (await alice.writes.put_state(room_id, "m.room.power_levels", levels)).status == 200
        topic = (await bob.writes.put_state(room_id, "m.room.topic", {"topic": "by Bob"})).event_id
        message = (await bob.writes.send(room_id, "said by Bob")).event_id
        for event_id in (topic, message):
            assert (await bob.writes.redact(room_id, event_id, {"reason": "secret"})).status == 200
        await erase(world, bob)
        await eve.writes.act(room_id, "join")
        await world.settle()
        for user, reason in ((alice, "secret"), (eve, None)):
            for place, reasons in (await redactions_in_every_way(user, room_id, message)).items():
                assert reasons and set(reasons) == {reason}, (user.user_id, place, reasons)

        # Those who left before a redaction do not get its reason.
        other = (await alice.writes.send(room_id, "said by Alice")).event_id
        await world.settle()
        await eve.writes.act(room_id, "leave")
        await alice.writes.redact(room_id, other, {"reason": "later"})
        await world.settle()
        for path in ("messages", f"event/{other}"):
            shown = (await eve.room(room_id, path, limit="20", dir="b")).json
            assert "said by Alice" not in str(shown) and "later" not in str(shown), path
        assert "later" in str((await alice.room(room_id, f"event/{other}")).json)


async def test_a_redacted_reason_is_gone_from_the_event_that_it_redacted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        message = (await bob.writes.send(room_id, "said by Bob")).event_id
        redaction = (await bob.writes.redact(room_id, message, {"reason": "rude"})).event_id
        await world.settle()
        assert set((await redactions_in_every_way(alice, room_id, message))["sync"]) == {"rude"}
        assert (await alice.writes.redact(room_id, redaction, {"reason": "fine"})).status == 200
        await world.settle()
        for fresh in (False, True):
            client = world.user("carol") if fresh else alice
            if fresh:
                await client.writes.act(room_id, "join")
                await world.settle()
            for place, reasons in (await redactions_in_every_way(client, room_id, message)).items():
                assert "rude" not in reasons and (None in reasons or place == "state"), (place, reasons)
