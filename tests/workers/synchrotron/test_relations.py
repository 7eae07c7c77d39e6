"""Relations: /relations, /threads, and `m.relations` of events in every endpoint."""

from typing import Any
from urllib.parse import quote

from shared.core.events.relation import Relation, relation_of, relation_of_json
from shared.core.identifiers import EventId, RoomId, UserId
from tests.fix_servers import TestDatabase
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import Client, fleet
from tests.spec_answers import check_answer
from tests.workers.synchrotron.stored_rooms import ALICE, store


async def v1(client: Client, path: str, **query: Any) -> Answer:
    process = client.world.synchrotrons[client.synchrotron]
    return await process.get(f"/_matrix/client/v1{path}", query, f"{client.user_id}|{client.writes.device}")


async def relations(client: Client, room_id: RoomId, event_id: EventId, more: str = "", /, **query: Any) -> Any:
    answer = await v1(client, f"/rooms/{quote(room_id)}/relations/{quote(event_id)}{more}", **query)
    assert answer.status == 200, answer.body
    names = ["", "/{relType}", "/{relType}/{eventType}"][more.count("/")]
    check_answer("relations.yaml", "/rooms/{roomId}/relations/{eventId}" + names, "get", answer.json)
    return answer.json


async def send(client: Client, room_id: RoomId, text: str, relation: Any = None, **content: Any) -> EventId:
    body = {"msgtype": "m.text", "body": text, **content}
    if relation is not None:
        body["m.relates_to"] = {"rel_type": relation[0], "event_id": relation[1]}
    txn = client.writes._txn = client.writes._txn + 1
    path = f"/rooms/{quote(room_id)}/send/m.room.message/{txn}"
    return (await client.writes.call("PUT", path, body)).event_id


async def edit(client: Client, room_id: RoomId, event_id: EventId, text: str) -> EventId:
    return await send(client, room_id, "* " + text, ("m.replace", event_id), **{"m.new_content": {"body": text}})


async def bundled(client: Client, room_id: RoomId, event_id: EventId) -> Any:
    """Return `m.relations`, which must be the same in every endpoint."""
    event = (await client.room(room_id, f"event/{quote(event_id)}")).json
    context = (await client.room(room_id, f"context/{quote(event_id)}")).json["event"]
    page = (await client.room(room_id, "messages", dir="b", limit=100)).json["chunk"]
    shown = [each for each in page if each["event_id"] == event_id]
    first = await client.sync(filter={"room": {"timeline": {"limit": 100}}})
    synced = [e for e in first["rooms"]["join"][room_id]["timeline"]["events"] if e["event_id"] == event_id]
    forms = [each["unsigned"].get("m.relations") for each in (event, context, *shown, *synced)]
    assert len(forms) == 4
    plain = [without_times(form) for form in forms]
    assert plain[0] == plain[1] == plain[2] == plain[3]
    return forms[0]


def without_times(value: Any) -> Any:
    """Leave out `age`, which differs from call to call, and `room_id`, which /sync leaves out."""
    if isinstance(value, dict):
        return {key: without_times(each) for key, each in value.items() if key not in ("age", "room_id")}
    return [without_times(each) for each in value] if isinstance(value, list) else value


def test_relation_must_match_the_schema() -> None:
    assert relation_of({"m.relates_to": {"rel_type": "m.thread", "event_id": "$a"}}) == Relation(
        "m.thread", EventId("$a")
    )
    wrong: tuple[Any, ...] = (
        None,
        [],
        "x",
        {},
        {"rel_type": 1, "event_id": "$a"},
        {"rel_type": "m.thread"},
        {"event_id": "$a"},
        {"rel_type": "", "event_id": "$a"},
        {"rel_type": "x" * 256, "event_id": "$a"},
        {"m.in_reply_to": {"event_id": "$a"}},
        {"rel_type": "é" * 128, "event_id": "$a"},
        {"rel_type": "\ud800", "event_id": "$a"},
    )
    for stated in wrong:
        assert relation_of({"m.relates_to": stated}) is None
    assert relation_of_json(b'{"content":{"m.relates_to":{"event_id":"$a","rel_type":"r"}}}') == Relation(
        "r", EventId("$a")
    )
    assert relation_of_json(b'{"content":{},"m.relates_to":{"event_id":"$a","rel_type":"r"}}') is None
    assert relation_of_json(b'{"content":{}}') is None


async def test_edits_threads_and_references_are_bundled(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        root = await send(alice, room_id, "root")
        plain = await send(alice, room_id, "plain")
        assert await bundled(alice, room_id, plain) is None
        await edit(alice, room_id, root, "first edit")
        last = await edit(alice, room_id, root, "last edit")
        # Invalid edits: by another sender, without new content, of an edit, of another type.
        await edit(bob, room_id, root, "forged")
        await send(alice, room_id, "no new content", ("m.replace", root))
        await edit(alice, room_id, last, "edit of an edit")
        relates = {"m.relates_to": {"rel_type": "m.replace", "event_id": root}, "m.new_content": {"body": "x"}}
        await alice.writes.call("PUT", f"/rooms/{quote(room_id)}/send/m.sticker/s1", {"body": "x", **relates})
        reply = await send(bob, room_id, "reply", ("m.thread", root))
        edited_reply = await edit(bob, room_id, reply, "edited reply")
        reference = await send(bob, room_id, "reference", ("m.reference", root))
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": root, "key": "+"}}
        await alice.writes.call("PUT", f"/rooms/{quote(room_id)}/send/m.reaction/r1", reaction)

        for reader, is_sender in ((alice, True), (bob, False)):
            bundle = await bundled(reader, room_id, root)
            assert set(bundle) == {"m.replace", "m.thread", "m.reference"}
            assert bundle["m.replace"]["event_id"] == last
            assert bundle["m.replace"]["content"]["m.new_content"] == {"body": "last edit"}
            assert bundle["m.reference"] == {"chunk": [{"event_id": reference}]}
            thread = bundle["m.thread"]
            assert (thread["count"], thread["current_user_participated"]) == (1, True), is_sender
            assert thread["latest_event"]["event_id"] == reply
            nested = thread["latest_event"]["unsigned"]["m.relations"]
            assert nested["m.replace"]["event_id"] == edited_reply
        # The content of the edited event stays.
        assert (await alice.room(room_id, f"event/{quote(root)}")).json["content"]["body"] == "root"

        await alice.writes.redact(room_id, last)
        await bob.writes.redact(room_id, reply)
        bundle = await bundled(bob, room_id, root)
        assert bundle["m.replace"]["content"]["body"] == "* first edit" and "m.thread" not in bundle
        await alice.writes.redact(room_id, root)
        assert set(await bundled(bob, room_id, root)) == {"m.reference"}


async def test_ignored_users_are_not_counted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat")
        for user in (bob, carol):
            await user.writes.act(room_id, "join")
        root = await send(carol, room_id, "root")
        replies = [await send(bob, room_id, "one", ("m.thread", root))]
        replies += [await send(carol, room_id, str(n), ("m.thread", root)) for n in range(3)]
        assert (await bundled(alice, room_id, root))["m.thread"]["count"] == 4
        assert not (await bundled(alice, room_id, root))["m.thread"]["current_user_participated"]
        assert len((await relations(alice, room_id, root))["chunk"]) == 4
        await world.set_account_data(
            alice.user_id, RoomId(""), "m.ignored_user_list", {"ignored_users": {carol.user_id: {}}}
        )
        found = await relations(alice, room_id, root)
        assert [each["event_id"] for each in found["chunk"]] == replies[:1]
        page = (await alice.room(room_id, "messages", dir="b", limit=100)).json["chunk"]
        assert {each["sender"] for each in page if "state_key" not in each} == {bob.user_id}
        thread = (await alice.room(room_id, f"event/{quote(root)}")).json["unsigned"]["m.relations"]["m.thread"]
        assert (thread["count"], thread["latest_event"]["event_id"]) == (1, replies[0])
        # The root is listed in redacted form, as in a client that aggregates by itself.
        (listed,) = (await v1(alice, f"/rooms/{quote(room_id)}/threads")).json["chunk"]
        assert (listed["event_id"], listed["content"]) == (root, {})


async def test_relations_come_in_pages(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, mallory = world.user("alice"), world.user("mallory")
        room_id = await alice.writes.create_room()
        root = await send(alice, room_id, "root")
        children = [await send(alice, room_id, str(n), ("m.thread", root)) for n in range(7)]
        reaction = {"m.relates_to": {"rel_type": "m.annotation", "event_id": children[2], "key": "+"}}
        path = f"/rooms/{quote(room_id)}/send/m.reaction/r1"
        second = (await alice.writes.call("PUT", path, reaction)).event_id
        third = await send(alice, room_id, "third", ("m.reference", second))
        fourth = await send(alice, room_id, "fourth", ("m.reference", third))
        for direction, expected in (("b", children[::-1]), ("f", children)):
            found: list[str] = []
            query: dict[str, Any] = {}
            while True:
                page = await relations(alice, room_id, root, limit=3, dir=direction, **query)
                assert page.get("prev_batch") == query.get("from") and "recursion_depth" not in page
                found += [event["event_id"] for event in page["chunk"]]
                if "next_batch" not in page:
                    break
                query = {"from": page["next_batch"]}
            assert found == expected
        first = await relations(alice, room_id, root, limit=2)
        second_page = await relations(alice, room_id, root, limit=2, **{"from": first["next_batch"]})
        between = await relations(
            alice, room_id, root, **{"from": first["next_batch"], "to": second_page["next_batch"]}
        )
        assert between["chunk"] == [
            {**event, "unsigned": each["unsigned"]}
            for event, each in zip(second_page["chunk"], between["chunk"], strict=True)
        ]
        deep = await relations(alice, room_id, root, recurse=True, limit=100)
        older_name = await relations(alice, room_id, root, limit=100, **{"org.matrix.msc3981.recurse": True})
        assert older_name["recursion_depth"] == deep["recursion_depth"]
        found, expected = ([event["event_id"] for event in each["chunk"]] for each in (older_name, deep))
        assert found == expected
        assert deep["recursion_depth"] == 3
        assert [event["event_id"] for event in deep["chunk"]] == [third, second, *children[::-1]]
        assert fourth not in str(deep["chunk"][1:])
        pages: list[str] = []
        query = {}
        while True:
            page = await relations(alice, room_id, root, recurse=True, limit=4, dir="f", **query)
            pages += [event["event_id"] for event in page["chunk"]]
            if "next_batch" not in page:
                break
            query = {"from": page["next_batch"]}
        assert pages == [*children, second, third]
        only = await relations(alice, room_id, root, "/m.thread", recurse=True)
        assert [event["event_id"] for event in only["chunk"]] == children[::-1]
        assert (await relations(alice, room_id, root, "/m.annotation", recurse=True))["chunk"] == []
        typed = await relations(alice, room_id, children[2], "/m.annotation/m.reaction")
        assert [event["event_id"] for event in typed["chunk"]] == [second]
        assert (await relations(alice, room_id, children[2], "/m.annotation/m.room.message"))["chunk"] == []
        await alice.writes.redact(room_id, second)
        assert (await relations(alice, room_id, children[2]))["chunk"] == []
        base = f"/rooms/{quote(room_id)}/relations"
        for reader, event_id, query, status, errcode in (
            (mallory, root, {}, 404, "M_NOT_FOUND"),
            (alice, "$nothing", {}, 404, "M_NOT_FOUND"),
            (alice, root, {"limit": 0}, 400, "M_INVALID_PARAM"),
            (alice, root, {"dir": "x"}, 400, "M_INVALID_PARAM"),
            (alice, root, {"from": "x"}, 400, "M_INVALID_PARAM"),
            (alice, root, {"from": ""}, 400, "M_INVALID_PARAM"),
            (alice, root, {"recurse": "1"}, 400, "M_INVALID_PARAM"),
        ):
            answer = await v1(reader, f"{base}/{quote(event_id)}", **query)
            assert (answer.status, answer.errcode) == (status, errcode), query


async def test_threads_are_ordered_by_their_latest_reply(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, mallory = (world.user(name) for name in ("alice", "bob", "mallory"))
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        roots = [await send(alice if n < 3 else bob, room_id, f"root {n}") for n in range(5)]
        for n in (4, 0, 3, 1, 0):
            await send(bob, room_id, "reply", ("m.thread", roots[n]))
        lonely = await send(alice, room_id, "reply", ("m.thread", roots[2]))
        await alice.writes.redact(room_id, lonely)
        path = f"/rooms/{quote(room_id)}/threads"
        ordered = [roots[n] for n in (0, 1, 3, 4)]
        found: list[str] = []
        query: dict[str, Any] = {}
        while True:
            page = (await v1(alice, path, limit=1, **query)).json
            found += [event["event_id"] for event in page["chunk"]]
            assert all("m.thread" in event["unsigned"]["m.relations"] for event in page["chunk"])
            if "next_batch" not in page:
                break
            query = {"from": page["next_batch"]}
        assert found == ordered
        mine = (await v1(alice, path, include="participated")).json["chunk"]
        assert [event["event_id"] for event in mine] == [roots[0], roots[1]]
        # A former member sees the threads as of their leave.
        await bob.writes.act(room_id, "leave")
        await send(alice, room_id, "later", ("m.thread", roots[4]))
        then = (await v1(bob, path)).json["chunk"]
        assert [event["event_id"] for event in then] == ordered
        now = (await v1(alice, path)).json["chunk"]
        check_answer("threads_list.yaml", "/rooms/{roomId}/threads", "get", {"chunk": now})
        assert [event["event_id"] for event in now] == [roots[n] for n in (4, 0, 1, 3)]
        assert now[0]["unsigned"]["m.relations"]["m.thread"]["count"] == 2
        assert (await v1(mallory, path)).errcode == "M_FORBIDDEN"
        for query in ({"from": "x"}, {"include": "some"}, {"limit": 0}):
            assert (await v1(alice, path, **query)).errcode == "M_INVALID_PARAM"


async def test_replies_before_a_join_are_not_counted(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        root = await send(alice, room_id, "root")
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        hidden = await send(alice, room_id, "hidden", ("m.thread", root))
        await edit(alice, room_id, root, "hidden edit")
        await bob.writes.act(room_id, "join")
        assert "m.relations" not in (await bob.room(room_id, f"event/{quote(root)}")).json["unsigned"]
        assert (await v1(bob, f"/rooms/{quote(room_id)}/threads")).json["chunk"] == []
        assert (await relations(bob, room_id, root))["chunk"] == []
        assert (await v1(bob, f"/rooms/{quote(room_id)}/relations/{quote(hidden)}")).status == 404
        seen = await send(alice, room_id, "seen", ("m.thread", root))
        thread = (await bob.room(room_id, f"event/{quote(root)}")).json["unsigned"]["m.relations"]["m.thread"]
        assert (thread["count"], thread["latest_event"]["event_id"]) == (1, seen)


async def test_only_limited_timelines_are_bundled(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        since = (await alice.sync())["next_batch"]
        root = await send(alice, room_id, "root")
        await edit(alice, room_id, root, "edit")
        await world.settle()
        one = await alice.sync(since)
        (first, _) = one["rooms"]["join"][room_id]["timeline"]["events"]
        assert "m.relations" not in first["unsigned"]
        cut = await alice.sync(since, filter={"room": {"timeline": {"limit": 2, "not_types": ["none"]}}})
        assert not cut["rooms"]["join"][room_id]["timeline"]["limited"]
        for n in range(3):
            await send(alice, room_id, str(n))
        await edit(alice, room_id, root, "second")
        await world.settle()
        cut = await alice.sync(since, filter={"room": {"timeline": {"limit": 6}}})
        assert not cut["rooms"]["join"][room_id]["timeline"]["limited"]
        cut = await alice.sync(since, filter={"room": {"timeline": {"limit": 5}}})
        section = cut["rooms"]["join"][room_id]["timeline"]
        assert section["limited"] and not any("m.relations" in e["unsigned"] for e in section["events"])
        last = section["events"][-1]["event_id"]
        # The children of a parent from before the events in memory are read.
        for n in range(160):
            await alice.writes.call("PUT", f"/rooms/{quote(room_id)}/send/m.noise/n{n}", {})
        await world.settle()
        whole = await alice.sync(filter={"room": {"timeline": {"limit": 1000, "types": ["m.room.message"]}}})
        events = whole["rooms"]["join"][room_id]["timeline"]["events"]
        shown = [event for event in events if event["event_id"] == root]
        assert [event["unsigned"]["m.relations"]["m.replace"]["event_id"] for event in shown] == [last]


async def test_fetched_history_counts_and_hostile_text_is_stored(postgres: TestDatabase) -> None:
    async with store(postgres.dsn) as stored, fleet(postgres.dsn) as world:
        room = stored.room()
        room.live(**room.member(UserId("@bob:remote"), "join"))
        root = room.live()
        room.live(**room.member(ALICE, "join"))
        thread = {"m.relates_to": {"rel_type": "m.thread", "event_id": root}, "body": "x"}
        later = room.live(content=thread)
        earlier = room.history(3, content=thread)
        odd = {"m.relates_to": {"rel_type": "a\x00b\x1a", "event_id": root}, "body": "x"}
        strange = room.live(content=odd)
        room.live(content={"m.relates_to": {"rel_type": "r" * 5000, "event_id": root}, "body": "x"})
        room.gap(3)
        await room.save()
        alice = world.user("alice")
        page = await relations(alice, room.room_id, root)
        assert [event["event_id"] for event in page["chunk"]] == [strange, later, earlier]
        page = await relations(alice, room.room_id, root, "/" + quote("a\x00b\x1a"))
        assert [event["event_id"] for event in page["chunk"]] == [strange]
        page = await relations(alice, room.room_id, root, limit=2)
        page = await relations(alice, room.room_id, root, limit=2, **{"from": page["next_batch"]})
        assert [event["event_id"] for event in page["chunk"]] == [earlier]
        (listed,) = (await v1(alice, f"/rooms/{quote(room.room_id)}/threads")).json["chunk"]
        bundle = listed["unsigned"]["m.relations"]["m.thread"]
        assert (listed["event_id"], bundle["count"], bundle["latest_event"]["event_id"]) == (root, 2, later)
