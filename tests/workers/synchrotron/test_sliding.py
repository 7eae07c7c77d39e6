"""Sliding sync against real PostgreSQL, fed by replication frames alone: both forms of one engine."""

import asyncio
from urllib.parse import quote

import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet, soon
from tests.workers.synchrotron.devices import person, writers
from tests.workers.synchrotron.sliding_client import (
    MERGED,
    SlidingClient,
    bodies,
    deployed,
    deployed_list,
    keys,
    merged,
    merged_list,
    post,
)
from workers.synchrotron.sliding import engine
from workers.synchrotron.sliding.connections import MAX_PER_DEVICE


async def test_window_of_rooms_and_their_updates(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        rooms = [await alice.writes.create_room(preset="public_chat", name=f"room {n}") for n in range(3)]
        await bob.writes.act(rooms[0], "join")
        lists = {"all": merged_list(2, range=[0, 1])}
        client = SlidingClient(alice, {"lists": lists})
        first = await client.sync()
        assert list(first["rooms"]) == [rooms[0], rooms[2]]  # bob's join is the latest event
        assert first["lists"] == {"all": {"count": 3}}
        told = first["rooms"][rooms[0]]
        assert told["initial"] and told["limited"] and told["name"] == "room 0" and told["membership"] == "join"
        assert told["lists"] == ["all"] and told["num_live"] == 0 if "num_live" in told else True
        assert (told["joined_count"], told["invited_count"]) == (2, 0)
        assert {("m.room.create", ""), ("m.room.member", bob.user_id)} <= keys(told)

        process = world.synchrotrons[0]
        waiting = asyncio.create_task(client.sync(10_000))
        await soon(waiting)
        assert not waiting.done()
        queries, statements = process.metric("skep_sync_queries_total"), process.foundation.database.statements
        sent = await bob.writes.send(rooms[0], "hello")
        answer = await waiting
        (event,) = answer["rooms"][rooms[0]]["timeline"]
        assert event["event_id"] == sent.event_id and answer["rooms"][rooms[0]]["num_live"] == 1
        assert "initial" not in answer["rooms"][rooms[0]] and "required_state" not in answer["rooms"][rooms[0]]
        assert process.metric("skep_sync_queries_total") == queries
        assert process.foundation.database.statements == statements  # the earlier state is not written again

        await alice.writes.send(rooms[1], "outside until now")
        answer = await client.sync(10_000)
        assert answer["rooms"][rooms[1]]["initial"] and bodies(answer["rooms"][rooms[1]])[-1] == "outside until now"
        assert not client.doubled


async def test_deployed_form(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat", name="den")
        await bob.writes.act(room_id, "join")
        wanted = deployed_list(1, [["m.room.create", ""], ["m.room.member", "$ME"]], ranges=[[0, 9]])
        first = await deployed(alice, lists={"l": wanted})
        room = first["rooms"][room_id]
        assert room["initial"] and room["notification_count"] == room["highlight_count"] == 0
        assert keys(room) == {("m.room.create", ""), ("m.room.member", alice.user_id)}
        assert "membership" not in room and "lists" not in room
        await bob.writes.send(room_id, "hi")
        second = await deployed(alice, first["pos"], lists={"l": wanted}, timeout=10_000)
        assert bodies(second["rooms"][room_id]) == ["hi"]
        assert second["rooms"][room_id]["notification_count"] == 1


async def test_subscriptions_of_the_deployed_form_last_until_they_are_withdrawn(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(name="den")
        hidden = await bob.writes.create_room(name="not hers")
        top = await alice.writes.create_room(name="top")
        lists = {"l": deployed_list(1, [], ranges=[[0, 0]])}
        first = await deployed(alice, lists=lists)
        assert set(first["rooms"]) == {top}
        subscriptions = {one: deployed_list(3, [["m.room.name", ""]]) for one in (room_id, hidden, "!none:x")}
        second = await deployed(alice, first["pos"], lists=lists, room_subscriptions=subscriptions)
        assert set(second["rooms"]) == {room_id} and keys(second["rooms"][room_id]) == {("m.room.name", "")}
        pos = second["pos"]
        for process in (0, 1):
            alice.synchrotron = process
            await alice.writes.send(room_id, f"{process}")
            await alice.writes.send(top, "on top")
            await world.settle()
            answer = await deployed(alice, pos, lists=lists)
            assert bodies(answer["rooms"][room_id]) == [f"{process}"]
            pos = answer["pos"]
        answer = await deployed(alice, pos, lists=lists, unsubscribe_rooms=[room_id])
        await alice.writes.send(room_id, "unheard")
        await alice.writes.send(top, "on top")
        await world.settle()
        answer = await deployed(alice, answer["pos"], lists=lists)
        assert set(answer["rooms"]) == {top}


async def test_forgotten_room_stays_away_from_a_connection_that_knew_it(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        for ask, one in ((merged, merged_list()), (deployed, deployed_list())):
            alice, bob = world.user("alice"), world.user("bob")
            room_id = await alice.writes.create_room(preset="public_chat")
            await bob.writes.act(room_id, "join")
            await world.settle()
            answer = await ask(bob, lists={"l": one})
            await bob.writes.act(room_id, "leave")
            await world.settle()
            answer = await ask(bob, answer["pos"], lists={"l": one})
            assert room_id in answer["rooms"]
            assert (await bob.writes.act(room_id, "forget")).status == 200
            for action in ("ban", "unban", "ban", "unban"):
                await alice.writes.act(room_id, action, {"user_id": bob.user_id})
                await world.settle()
                answer = await ask(bob, answer["pos"], lists={"l": one})
                assert answer["rooms"] == {}, action
            await alice.writes.act(room_id, "invite", {"user_id": bob.user_id})
            await world.settle()
            answer = await ask(bob, answer["pos"], lists={"l": one})
            assert {"invite_state", "stripped_state"} & answer["rooms"][room_id].keys()


async def test_connections_are_bounded_and_deleted_with_their_device(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice = await person(world, api, "alice")
        await alice.reads.writes.create_room()
        lists = {"l": merged_list()}
        for number in range(MAX_PER_DEVICE + 2):
            await merged(alice.reads, conn_id=str(number), lists=lists)
        rows = await world.database.fetch("SELECT conn_id FROM sliding_states")
        assert len(rows) == MAX_PER_DEVICE and {"0", "1"}.isdisjoint(row["conn_id"] for row in rows)
        await alice.writes.call("POST", "/logout", {})
        assert not await world.database.fetch("SELECT 1 FROM sliding_states")


async def test_positions_of_other_connections_are_unknown(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, phone = world.user("alice"), world.user("bob"), world.user("alice", "PHONE")
        await alice.writes.create_room()
        pos = (await merged(alice, lists={"l": merged_list()}))["pos"]
        for client, body in ((bob, {}), (phone, {}), (alice, {"conn_id": "other"})):
            answer = await post(client, MERGED, {"pos": pos, **body})
            assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS")
        for bad in ("x", "x1...", pos + "x", pos.replace(".s1_", ".s9_")):
            answer = await post(alice, MERGED, {"pos": bad})
            assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS"), bad
        assert (await merged(alice, pos))["pos"]


async def test_rooms_outside_the_window_catch_up_and_timelines_expand(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice = world.user("alice")
        old, new = [await alice.writes.create_room(name=name) for name in ("old", "new")]
        client = SlidingClient(alice, {"lists": {"l": merged_list(1, range=[0, 0])}})
        await client.sync()  # new
        await alice.writes.send(old, "1")
        await client.sync()  # old, as initial; new leaves the window without updates
        await alice.writes.send(new, "2")
        await alice.writes.send(old, "3")
        answer = await client.sync()
        assert set(answer["rooms"]) == {old}  # updates of `new` are not within the range
        for number in range(4):
            await alice.writes.send(new, f"later {number}")
            await alice.writes.send(old, f"beside {number}")
        await client.sync()
        answer = await client.sync(lists={"l": merged_list(3)})  # no range: all rooms
        assert bodies(answer["rooms"][new]) == ["later 1", "later 2", "later 3"]
        assert "initial" not in answer["rooms"][new] and answer["rooms"][new]["limited"]
        assert answer["rooms"][new]["num_live"] == 0  # they came before the last response
        assert bodies(answer["rooms"][old]) == ["beside 1", "beside 2", "beside 3"]
        assert answer["rooms"][old]["expanded_timeline"]
        answer = await client.sync(lists={"l": merged_list(2)})
        assert answer["rooms"] == {}
        await alice.writes.send(new, "last")
        answer = await client.sync(lists={"l": merged_list(4)})  # the latest four are known then
        assert bodies(answer["rooms"][new]) == ["last"] and "expanded_timeline" not in answer["rooms"][new]
        alice.synchrotron = 1
        await world.settle()
        answer = await client.sync(lists={"l": merged_list(20)})
        assert answer["rooms"][old]["expanded_timeline"] and bodies(answer["rooms"][old])[0] == "m.room.create"
        page = await alice.room(new, "messages", dir="b", limit=1, **{"from": client.pos or ""})
        assert page.json["chunk"][0]["content"]["body"] == "last"
        page = await alice.room(new, "messages", dir="b", limit=1, **{"from": client.rooms[new].prev_batch or ""})
        assert page.json["chunk"] == [] and not client.doubled


async def test_repeated_position_gets_the_same_response_from_every_process(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice = world.user("alice")
        rooms = [await alice.writes.create_room(name=str(number)) for number in range(4)]
        lists = {"l": merged_list(2, range=[0, 1])}
        first = await merged(alice, lists=lists)
        await alice.writes.send(rooms[0], "a")
        await alice.writes.send(rooms[3], "b")
        await world.settle()
        wide = {"l": merged_list(2, range=[0, 3])}
        answers = []
        for process in (0, 1, 0, 1):
            alice.synchrotron = process
            answers.append(await merged(alice, first["pos"], lists=wide))
            assert {room: told.get("initial", False) for room, told in answers[-1]["rooms"].items()} == {
                rooms[0]: True,
                rooms[1]: True,
                rooms[3]: False,
            }
        assert len({answer["pos"] for answer in answers}) == 4
        for process in (0, 1):  # the client processed the last one
            alice.synchrotron = process
            assert (await merged(alice, answers[-1]["pos"], lists=wide))["rooms"] == {}
        # Once a later state is stored, the earlier ones are deleted.
        await alice.writes.create_room()
        await world.settle()
        await merged(alice, answers[-1]["pos"], lists=wide)
        answer = await post(alice, MERGED, {"pos": answers[0]["pos"], "lists": wide})
        assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS")


async def test_rooms_of_every_membership(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        lists = {"l": merged_list(5)}
        client = SlidingClient(bob, {"lists": lists})
        await client.sync()
        den = await alice.writes.create_room(name="den", invite=[bob.user_id])
        told = (await client.sync(10_000))["rooms"][den]
        assert told["membership"] == "invite" and told["initial"]
        assert {event["type"] for event in told["stripped_state"]} >= {"m.room.create", "m.room.name"}
        assert "timeline" not in told and "required_state" not in told and "name" not in told
        seen = await deployed(bob, lists={"l": deployed_list(5, filters={"is_invite": True})}, conn_id="d")
        assert seen["lists"]["l"]["count"] == 1 and "invite_state" in seen["rooms"][den]
        await bob.writes.act(den, "join")
        told = (await client.sync(10_000))["rooms"][den]
        assert told["membership"] == "join" and told["initial"] and told["name"] == "den"
        await alice.writes.act(den, "kick", {"user_id": bob.user_id})
        await alice.writes.send(den, "without bob")
        told = (await client.sync(10_000))["rooms"][den]
        assert told["membership"] == "leave" and bodies(told) == ["m.room.member"] and "joined_count" not in told
        fresh = await merged(bob, lists=lists, conn_id="fresh")
        assert fresh["rooms"][den]["membership"] == "leave"  # kicked: new connections list it too
        assert "without bob" not in str(fresh)

        refused = await alice.writes.create_room(name="refused", invite=[bob.user_id])
        await client.sync()
        await bob.writes.act(refused, "leave")
        told = (await client.sync(10_000))["rooms"][refused]
        assert told["membership"] == "leave" and "stripped_state" in told and "timeline" not in told
        banned = await alice.writes.create_room(name="banned")
        await alice.writes.act(banned, "ban", {"user_id": bob.user_id})
        left = await alice.writes.create_room(preset="public_chat", name="left")
        await bob.writes.act(left, "join")
        await client.sync()
        await bob.writes.act(left, "leave")
        assert (await client.sync(10_000))["rooms"][left]["membership"] == "leave"
        await alice.writes.send(left, "without bob")
        fresh = await merged(bob, lists=lists, conn_id="third", room_subscriptions={left: merged_list(1)})
        assert set(fresh["rooms"]) == {den, left} and fresh["lists"]["l"]["count"] == 1
        assert bodies(fresh["rooms"][left]) == ["m.room.member"]
        await bob.writes.act(left, "join")
        told = (await client.sync(10_000))["rooms"][left]
        assert told["initial"] and told["membership"] == "join" and bodies(told)[-1] == "m.room.member"
        club = await alice.writes.create_room(
            initial_state=[{"type": "m.room.join_rules", "content": {"join_rule": "knock"}}]
        )
        await bob.writes.call("POST", f"/knock/{quote(club, safe='')}", {})
        told = (await client.sync(10_000))["rooms"][club]
        assert told["membership"] == "knock" and told["stripped_state"]


async def test_forgotten_room_ends_for_every_connection(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await bob.writes.create_room(preset="public_chat")
        await alice.writes.act(room_id, "join")
        sliding = SlidingClient(alice, {"lists": {"all": merged_list(5)}})
        await sliding.sync()
        await alice.writes.act(room_id, "leave")
        await alice.writes.act(room_id, "forget")
        alice.synchrotron = 1  # that process did not have alice before
        assert (await sliding.sync(10_000))["rooms"][room_id]["membership"] == "leave"


async def test_list_filters(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        plain = await alice.writes.create_room(name="Plain Bees")
        secret = await alice.writes.create_room(
            initial_state=[{"type": "m.room.encryption", "content": {"algorithm": "m.megolm.v1.aes-sha2"}}]
        )
        space = await alice.writes.create_room(creation_content={"type": "m.space"}, name="hive")
        await alice.writes.put_state(space, "m.space.child", {"via": ["x"]}, plain)
        invited = await bob.writes.create_room(invite=[alice.user_id], name="bobs")
        await world.set_account_data(alice.user_id, RoomId(""), "m.direct", {bob.user_id: [secret]})
        await world.set_account_data(alice.user_id, plain, "m.tag", {"tags": {"m.favourite": {}, "u.a": {}}})
        names = {plain: "plain", secret: "secret", space: "space", invited: "invited"}

        async def passing(**filters: object) -> set[str]:
            wanted = deployed_list(0, [], ranges=[[0, 9]], filters=filters)
            answer = await deployed(alice, lists={"l": wanted}, conn_id=str(filters)[:200])
            assert answer["lists"]["l"]["count"] == len(answer["rooms"])
            return {names[room_id] for room_id in answer["rooms"]}

        everything = set(names.values())
        assert await passing() == everything
        assert await passing(is_dm=True) == {"secret"}
        assert await passing(is_dm=False) == everything - {"secret"}
        assert await passing(is_encrypted=True) == {"secret"}
        assert await passing(is_encrypted=False) == everything - {"secret"}
        assert await passing(is_invite=True) == {"invited"}
        assert await passing(is_invite=False) == everything - {"invited"}
        assert await passing(room_types=["m.space"]) == {"space"}
        assert await passing(room_types=[None]) == everything - {"space"}
        assert await passing(not_room_types=["m.space"]) == everything - {"space"}
        assert await passing(room_types=["m.space", None], not_room_types=[None]) == {"space"}
        assert await passing(spaces=[space, "!unknown:test"]) == {"plain"}
        assert await passing(spaces=["!unknown:test"]) == set()
        assert await passing(tags=["m.favourite"]) == {"plain"}
        assert await passing(tags=["m.favourite"], not_tags=["u.a"]) == set()
        assert await passing(not_tags=["m.favourite"]) == everything - {"plain"}
        assert await passing(room_name_like="bees") == {"plain"}

        # Lists are updated: each change moves rooms between lists while a request waits.
        def lists() -> dict[str, object]:
            return {
                "dms": merged_list(0, {}, filters={"is_dm": True}),
                "child": merged_list(0, {}, filters={"spaces": [space]}),
                "crypt": merged_list(0, {}, filters={"is_encrypted": True}),
                "bees": merged_list(0, {}, filters={"tags": ["m.favourite"]}),
            }

        client = SlidingClient(alice, {"lists": lists()})
        await client.sync()
        assert client.counts == {"dms": 1, "child": 1, "crypt": 1, "bees": 1}
        await world.set_account_data(alice.user_id, RoomId(""), "m.direct", {bob.user_id: [secret, plain]})
        answer = await client.sync(10_000)
        assert client.counts["dms"] == 2 and answer["rooms"][plain]["is_dm"] is True
        await alice.writes.put_state(space, "m.space.child", {}, plain)
        await alice.writes.put_state(plain, "m.room.encryption", {"algorithm": "m.megolm.v1.aes-sha2"})
        await world.set_account_data(alice.user_id, secret, "m.tag", {"tags": {"m.favourite": {}}})
        while client.counts != {"dms": 2, "child": 0, "crypt": 2, "bees": 2}:
            await client.sync(10_000)


async def test_required_state(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, carol = (world.user(name) for name in ("alice", "bob", "carol"))
        room_id = await alice.writes.create_room(preset="public_chat", name="den", topic="t")
        for client in (bob, carol):
            await client.writes.act(room_id, "join")
        await bob.writes.send(room_id, "by bob")

        async def told(limit: int, state: object, **more: object) -> set[tuple[str, str]]:
            wanted = merged_list(limit, state, range=[0, 9], **more)  # type: ignore[arg-type]
            return keys((await merged(alice, lists={"l": wanted}))["rooms"][room_id])

        name, topic = ("m.room.name", ""), ("m.room.topic", "")
        of_alice, of_bob, of_carol = (("m.room.member", client.user_id) for client in (alice, bob, carol))
        everything = await told(1, {"include": [{}]})
        assert {name, topic, of_alice, of_bob, of_carol} < everything
        assert await told(1, {"include": [{"type": name[0], "state_key": ""}]}) == {name}
        assert await told(1, {"include": [{"type": name[0]}, {"type": topic[0]}]}) == {name, topic}
        assert await told(1, {"include": [{}], "exclude": [{"type": name[0]}]}) == everything - {name}
        assert await told(1, {"include": [{"state_key": bob.user_id}]}) == {of_bob}
        assert await told(1, {"include": [{}], "lazy_members": True}) == everything - {of_alice, of_carol}
        assert await told(0, {"lazy_members": True}) == set()
        named = {"include": [{}, {"type": of_alice[0], "state_key": of_alice[1]}], "lazy_members": True}
        assert await told(1, named) == everything - {of_carol}

        lazy = SlidingClient(alice, {"lists": {"l": merged_list(1, {"lazy_members": True})}})
        assert keys((await lazy.sync())["rooms"][room_id]) == {of_bob}
        await bob.writes.send(room_id, "again")
        assert keys((await lazy.sync())["rooms"][room_id]) == set()  # bob's was sent
        await carol.writes.act(room_id, "leave")
        assert keys((await lazy.sync())["rooms"][room_id]) == {of_carol}
        wider = {"include": [{"type": "m.room.name"}, {"type": "m.room.topic"}], "lazy_members": True}
        answer = await lazy.sync(lists={"l": merged_list(1, wider)})
        assert keys(answer["rooms"][room_id]) == {name, topic} and "timeline" not in answer["rooms"][room_id]
        await alice.writes.put_state(room_id, "m.room.name", {})
        room = (await lazy.sync())["rooms"][room_id]
        assert room["name"] is None and name in keys(room)
        assert [hero["user_id"] for hero in room["heroes"]] == [bob.user_id]
        await alice.writes.put_state(room_id, "m.room.avatar", {"url": "mxc://a/b"})
        assert (await lazy.sync())["rooms"][room_id]["avatar"] == "mxc://a/b"


async def test_rooms_beyond_the_size_limit_come_with_the_next_response(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_MAX_RESPONSE_BYTES", 3_000)
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        rooms = [await alice.writes.create_room(name=str(number)) for number in range(4)]
        client = SlidingClient(alice, {"lists": {"l": merged_list(20)}})
        answers = [await client.sync(10_000) for _ in range(4)]
        assert [len(answer["rooms"]) for answer in answers] == [1, 1, 1, 1]
        assert set(client.rooms) == set(rooms) and client.counts == {"l": 4}
        for room_id in rooms:
            await alice.writes.send(room_id, "x" * 4_000)
        answers = [await client.sync(10_000) for _ in range(4)]
        assert [bodies(*answer["rooms"].values()) for answer in answers] == [["x" * 4_000]] * 4
        assert (await client.sync())["rooms"] == {} and not client.doubled
