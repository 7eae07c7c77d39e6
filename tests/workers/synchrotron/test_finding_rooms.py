"""Room summaries, the hierarchy of spaces, and the directory."""

from typing import Any
from urllib.parse import quote

import orjson

from shared.core.identifiers import RoomId, UserId
from shared.core.room_summary import SpaceChild, child_order
from tests.fix_servers import TestDatabase
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import Client, fleet
from tests.spec_answers import check_answer
from tests.workers.synchrotron.test_relations import v1

WORLD_READABLE = {
    "type": "m.room.history_visibility",
    "state_key": "",
    "content": {"history_visibility": "world_readable"},
}


def rules(join_rule: str, *allowed: str) -> dict[str, Any]:
    allow = [{"type": "m.room_membership", "room_id": room_id} for room_id in allowed]
    return {"type": "m.room.join_rules", "state_key": "", "content": {"join_rule": join_rule, "allow": allow}}


async def space(client: Client, **body: Any) -> RoomId:
    return await client.writes.create_room(creation_content={"type": "m.space"}, **body)


async def adopt(client: Client, parent: RoomId, child: str, **content: Any) -> None:
    answer = await client.writes.put_state(parent, "m.space.child", {"via": ["example.org"], **content}, child)
    assert answer.status == 200, answer.body


async def hierarchy(client: Client, room_id: RoomId, **query: Any) -> Answer:
    return await v1(client, f"/rooms/{quote(room_id)}/hierarchy", **query)


def ids(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    check_answer("space_hierarchy.yaml", "/rooms/{roomId}/hierarchy", "get", answer.json)
    return [room["room_id"] for room in answer.json["rooms"]]


def test_space_children_are_in_the_order_of_the_spec() -> None:
    def child(room: RoomId, ts: int, order: Any = None) -> SpaceChild:
        return SpaceChild(room, UserId("@a:b"), ts, {} if order is None else {"order": order})

    # The example of the spec, and invalid orders.
    children = [
        child(RoomId("!b"), 1640341000000, " "),
        child(RoomId("!a"), 1640141000000, "aaaa"),
        child(RoomId("!c"), 1640841000000, "first"),
        child(RoomId("!e"), 1640641000000),
        child(RoomId("!d"), 1640741000000),
        child(RoomId("!f"), 1640741000001, "é"),
        child(RoomId("!g"), 1640741000002, "x" * 51),
        child(RoomId("!h"), 1640741000003, 7),
        child(RoomId("!i"), 1640741000004, ""),
    ]
    mixed = children[4:] + children[:4]
    assert [each.room_id for each in sorted(mixed, key=child_order)] == [each.room_id for each in children]
    assert (
        not SpaceChild(RoomId("!a"), UserId("@a:b"), 1, {"via": []}).is_valid
        and not SpaceChild(RoomId("!a"), UserId("@a:b"), 1, {"via": [1]}).is_valid
    )


async def test_hierarchy_with_loops_comes_in_pages(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        root, inner = await space(alice, name="root"), await space(alice, name="inner")
        rooms = [await alice.writes.create_room(name=f"room {n}") for n in range(4)]
        await adopt(alice, root, rooms[0], order="b", suggested=True)
        await adopt(alice, root, inner, order="a")
        await adopt(alice, inner, root)
        await adopt(alice, inner, rooms[1], order="1")
        await adopt(alice, inner, rooms[2], order="0", suggested=True)
        await adopt(alice, root, rooms[1], order="c")
        await adopt(alice, root, rooms[3], order="d")
        await adopt(alice, root, "!elsewhere:remote", order="e")
        gone = (await alice.writes.put_state(root, "m.space.child", {}, rooms[3])).event_id
        assert gone
        whole = await hierarchy(alice, root)
        expected = [root, inner, rooms[2], rooms[1], rooms[0]]
        assert ids(whole) == expected
        first = whole.json["rooms"][0]
        assert (first["name"], first["room_type"], first["num_joined_members"]) == ("root", "m.space", 1)
        assert [child["state_key"] for child in first["children_state"]] == [
            inner,
            rooms[0],
            rooms[1],
            "!elsewhere:remote",
        ]
        assert set(first["children_state"][0]) == {"type", "state_key", "content", "sender", "origin_server_ts"}
        assert whole.json["rooms"][2]["children_state"] == [] and "next_batch" not in whole.json
        found: list[str] = []
        query: dict[str, Any] = {}
        while True:
            page = await hierarchy(alice, root, limit=2, **query)
            found += ids(page)
            if "next_batch" not in page.json:
                break
            query = {"from": page.json["next_batch"]}
        assert found == expected
        assert ids(await hierarchy(alice, root, max_depth=0)) == [root]
        assert ids(await hierarchy(alice, root, max_depth=1)) == [root, inner, rooms[0], rooms[1]]
        assert ids(await hierarchy(alice, root, suggested_only=True)) == [root, rooms[0]]
        for more in ({"max_depth": 1}, {"suggested_only": True}, {"from": "x"}):
            assert (await hierarchy(alice, root, **{**query, **more})).errcode == "M_INVALID_PARAM"
        assert (await hierarchy(alice, root, limit=0)).errcode == "M_INVALID_PARAM"
        assert (await hierarchy(world.user("mallory"), root)).errcode == "M_FORBIDDEN"
        assert (await hierarchy(alice, RoomId("!nothing:example.org"))).errcode == "M_FORBIDDEN"


async def test_summary_is_for_users_who_may_find_the_room(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        club = await alice.writes.create_room(preset="public_chat")
        rooms = {
            "public": await alice.writes.create_room(preset="public_chat", topic="bees"),
            "private": await alice.writes.create_room(),
            "invited": await alice.writes.create_room(invite=[bob.user_id]),
            "knock": await alice.writes.create_room(initial_state=[rules("knock")]),
            "knock_restricted": await alice.writes.create_room(initial_state=[rules("knock_restricted", club)]),
            "readable": await alice.writes.create_room(initial_state=[WORLD_READABLE]),
            "restricted": await alice.writes.create_room(initial_state=[rules("restricted", club)]),
            "old restricted": await alice.writes.create_room(
                room_version="6", initial_state=[rules("restricted", club)]
            ),
            "banned": await alice.writes.create_room(preset="public_chat"),
        }
        await alice.writes.act(rooms["banned"], "ban", {"user_id": bob.user_id})
        root = await space(alice, preset="public_chat")
        for room_id in rooms.values():
            await adopt(alice, root, room_id)
        names: dict[str, str] = {room_id: name for name, room_id in rooms.items()}

        async def seen() -> set[str]:
            found = [names[room_id] for room_id in ids(await hierarchy(bob, root))[1:]]
            for name, room_id in rooms.items():
                summary = await v1(bob, f"/room_summary/{quote(room_id)}")
                assert summary.status == (200 if name in found else 404), name
            return set(found)

        open_to_all = {"public", "invited", "knock", "knock_restricted", "readable"}
        assert await seen() == open_to_all
        await bob.writes.act(club, "join")
        assert await seen() == open_to_all | {"restricted"}
        summary = (await v1(bob, f"/room_summary/{quote(rooms['restricted'])}")).json
        assert (summary["allowed_room_ids"], summary["membership"], summary["join_rule"]) == (
            [club],
            "leave",
            "restricted",
        )
        assert (await v1(bob, f"/room_summary/{quote(rooms['invited'])}")).json["membership"] == "invite"
        # No user of this server is in the room any more, so its summary would be out of date.
        await alice.writes.act(rooms["readable"], "leave")
        assert "readable" not in await seen()


async def test_summary_leaves_out_fields_of_the_wrong_type(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room(preset="public_chat", room_alias_name="hive", name="n", topic="t")
        await alice.writes.put_state(room_id, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        avatar = (await alice.writes.put_state(room_id, "m.room.avatar", {"url": "mxc://a/b"})).event_id
        for base in (
            "v1/room_summary/{}",
            "unstable/im.nheko.summary/summary/{}",
            "unstable/im.nheko.summary/rooms/{}/summary",
        ):
            path = "/_matrix/client/" + base.format(quote("#hive:example.org"))
            summary = (await world.synchrotrons[0].get(path, {}, f"{alice.user_id}|D")).json
            check_answer("room_summary.yaml", "/room_summary/{roomIdOrAlias}", "get", summary)
            assert summary == {
                "room_id": room_id,
                "name": "n",
                "topic": "t",
                "avatar_url": "mxc://a/b",
                "join_rule": "public",
                "canonical_alias": "#hive:example.org",
                "encryption": "m.megolm.v1.aes-sha2",
                "membership": "join",
                "guest_can_join": False,
                "world_readable": False,
                "num_joined_members": 1,
                "room_version": summary["room_version"],
            }
        await alice.writes.redact(room_id, avatar)
        for event_type, content in (
            ("m.room.name", {"name": ["n"]}),
            ("m.room.topic", {"topic": {}}),
            ("m.room.canonical_alias", {}),
            ("m.room.guest_access", {"guest_access": 1}),
            ("m.room.history_visibility", {"history_visibility": []}),
        ):
            assert (await alice.writes.put_state(room_id, event_type, content)).status == 200
        summary = (await v1(alice, f"/room_summary/{quote(room_id)}")).json
        assert not {"name", "topic", "avatar_url", "canonical_alias", "room_type"} & set(summary)
        for wrong, errcode in (
            ("#none:example.org", "M_NOT_FOUND"),
            ("#hive:remote", "M_NOT_FOUND"),
            ("hive", "M_INVALID_PARAM"),
            ("!none:example.org", "M_NOT_FOUND"),
        ):
            assert (await v1(alice, f"/room_summary/{quote(wrong)}")).errcode == errcode


async def directory(client: Client, **query: Any) -> Any:
    answer = await client.get("/publicRooms", **query)
    assert answer.status == 200, answer.body
    check_answer("list_public_rooms.yaml", "/publicRooms", "get", answer.json)
    return answer.json


async def search(client: Client, **body: Any) -> Answer:
    return await client.post("/publicRooms", body)


async def test_directory_pages_in_both_directions(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, others = world.user("alice"), [world.user(f"u{n}") for n in range(3)]
        create = alice.writes.create_room
        rooms = [await create(preset="public_chat", visibility="public", name=f"Room {n}") for n in range(6)]
        await create(preset="public_chat", name="not listed")
        deserted = await create(preset="public_chat", visibility="public")
        await alice.writes.act(deserted, "leave")
        for room, members in ((4, 3), (2, 2), (5, 1)):
            for other in others[:members]:
                await other.writes.act(rooms[room], "join")
        expected = [rooms[n] for n in (4, 2, 5, 0, 1, 3)]
        whole = await directory(alice)
        assert [room["room_id"] for room in whole["chunk"]] == expected
        assert [room["num_joined_members"] for room in whole["chunk"]] == [4, 3, 2, 1, 1, 1]
        assert whole["chunk"][0]["name"] == "Room 4" and "prev_batch" not in whole
        pages = [await directory(alice, limit=2)]
        while "next_batch" in pages[-1]:
            pages.append(await directory(alice, limit=2, since=pages[-1]["next_batch"]))
        assert [room["room_id"] for page in pages for room in page["chunk"]] == expected
        back = await directory(alice, limit=2, since=pages[-2]["prev_batch"])
        assert back["chunk"] == pages[-3]["chunk"]
        again = await directory(alice, limit=2, since=back["next_batch"])
        assert again["chunk"] == pages[-2]["chunk"]
        first = await directory(alice, limit=2, since=pages[1]["prev_batch"])
        assert first["chunk"] == pages[0]["chunk"] and "prev_batch" not in first
        for wrong in ({"since": "x"}, {"limit": "0"}, {"limit": "x"}):
            assert (await alice.get("/publicRooms", **wrong)).errcode == "M_INVALID_PARAM"
        assert (await alice.get("/publicRooms", server="elsewhere")).errcode == "M_NOT_FOUND"
        assert (await directory(alice, server="example.org", limit=1))["chunk"] == whole["chunk"][:1]


async def test_directory_is_filtered(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        create = alice.writes.create_room
        bees = await create(visibility="public", name="BEES", room_alias_name="hive")
        wasps = await create(visibility="public", topic="no bees here")
        a_space = await create(visibility="public", name="bees", creation_content={"type": "m.space"})
        await create(name="hidden bees")

        async def found(**wanted: Any) -> set[str]:
            answer = await search(alice, filter=wanted)
            assert answer.status == 200, answer.body
            check_answer("list_public_rooms.yaml", "/publicRooms", "post", answer.json)
            return {room["room_id"] for room in answer.json["chunk"]}

        assert await found(generic_search_term="Bees") == {bees, wasps, a_space}
        assert await found(generic_search_term="#hive") == {bees}
        assert await found(generic_search_term="nothing") == set()
        umlaut = await create(visibility="public", name="\u00dcbung", topic="Cafe\u0301")
        for term in ("\u00fcbung", "u\u0308bung", "U\u0308BUNG", "caf\u00e9", "CAFE\u0301"):
            assert await found(generic_search_term=term) == {umlaut}, "in every normal form and case"
        assert await found(room_types=["m.space"]) == {a_space}
        assert await found(room_types=[None], generic_search_term="bees") == {bees, wasps}
        assert await found(room_types=[]) == set()
        assert (await search(alice, third_party_instance_id="irc")).json["chunk"] == []
        page = (await search(alice, limit=1, filter={"generic_search_term": "bees"})).json
        rest = (await search(alice, since=page["next_batch"], filter={"generic_search_term": "bees"})).json
        assert {room["room_id"] for room in page["chunk"] + rest["chunk"]} == {bees, wasps, a_space}
        for wrong, errcode in (
            ({"limit": 0}, "M_INVALID_PARAM"),
            ({"limit": "x"}, "M_BAD_JSON"),
            ({"filter": 1}, "M_BAD_JSON"),
            ({"filter": {"room_types": "m.space"}}, "M_BAD_JSON"),
            ({"since": "x"}, "M_INVALID_PARAM"),
            ({"filter": {"generic_search_term": "x" * 1001}}, "M_INVALID_PARAM"),
        ):
            answer = await search(alice, **wrong)
            assert (answer.status, answer.errcode) == (400, errcode), wrong
        assert orjson.loads((await alice.post("/publicRooms", None)).body)["chunk"]
