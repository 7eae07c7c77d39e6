"""Sliding sync against real PostgreSQL, fed by replication frames alone: both forms of one engine."""

import asyncio

from tests.fix_servers import TestDatabase
from tests.workers.event_persister.rig import run
from tests.workers.synchrotron.rig import fleet, soon
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


def test_a_window_of_rooms_and_what_happens_in_them(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, bob = world.user("alice"), world.user("bob")
            rooms = [await alice.writes.create_room(preset="public_chat", name=f"room {n}") for n in range(3)]
            await bob.writes.act(rooms[0], "join")
            lists = {"all": merged_list(2, range=[0, 1])}
            client = SlidingClient(alice, {"lists": lists})
            first = await client.sync()
            assert list(first["rooms"]) == [rooms[0], rooms[2]]  # bob's join is the latest event of all
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
            assert process.foundation.database.statements == statements  # what was sent before is not written anew

            await alice.writes.send(rooms[1], "outside until now")
            answer = await client.sync(10_000)
            assert answer["rooms"][rooms[1]]["initial"] and bodies(answer["rooms"][rooms[1]])[-1] == "outside until now"
            assert not client.doubled

    run(scenario())


def test_deployed_form(postgres: TestDatabase) -> None:
    async def scenario() -> None:
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

    run(scenario())


def test_positions_of_others_are_unknown(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, bob, phone = world.user("alice"), world.user("bob"), world.user("alice", "PHONE")
            await alice.writes.create_room()
            pos = (await merged(alice, lists={"l": merged_list()}))["pos"]
            for client, body in ((bob, {}), (phone, {}), (alice, {"conn_id": "other"})):
                answer = await post(client, MERGED, {"pos": pos, **body})
                assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS")
            for bad in ("", "x", pos + "x", pos.replace(".s1_", ".s9_")):
                answer = await post(alice, MERGED, {"pos": bad})
                assert (answer.status, answer.json["errcode"]) == (400, "M_UNKNOWN_POS"), bad
            assert (await merged(alice, pos))["pos"]

    run(scenario())
