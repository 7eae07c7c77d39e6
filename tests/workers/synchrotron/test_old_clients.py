"""The endpoints from before /sync: /events, /initialSync, and previews of rooms."""

import asyncio
from typing import Any

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, fleet, soon
from tests.spec_answers import check_answer
from tests.workers.synchrotron.devices import know_presence_writer, person, writers


async def _events(who: Client, **query: Any) -> Any:
    answer = await who.get("/events", **query)
    assert answer.status == 200, answer.body
    file, path = ("peeking_events.yaml", "/events ") if "room_id" in query else ("old_sync.yaml", "/events")
    # The schema has events of rooms only. Presence, receipts and account data come beside them.
    of_rooms = [event for event in answer.json["chunk"] if "event_id" in event]
    check_answer(file, path, "get", {**answer.json, "chunk": of_rooms})
    return answer.json


async def _initial(who: Client, **query: Any) -> Any:
    answer = await who.get("/initialSync", **query)
    assert answer.status == 200, answer.body
    check_answer("old_sync.yaml", "/initialSync", "get", answer.json)
    return answer.json


async def _room_initial(who: Client, room_id: RoomId, **query: Any) -> Any:
    answer = await who.room(room_id, "initialSync", **query)
    assert answer.status == 200, answer.body
    check_answer("room_initial_sync.yaml", "/rooms/{roomId}/initialSync", "get", answer.json)
    return answer.json


def _bodies(events: list[Any]) -> list[str]:
    return [event["content"]["body"] for event in events if event["type"] == "m.room.message"]


def _members(events: list[Any]) -> dict[str, str]:
    return {e["state_key"]: e["content"]["membership"] for e in events if e["type"] == "m.room.member"}


async def test_client_from_before_sync_starts_and_follows(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob, carol = world.user("alice"), world.user("bob"), world.user("carol")
        bob.synchrotron = 1
        room_id = await alice.writes.create_room(preset="public_chat", name="bees")
        for number in range(4):
            await alice.writes.send(room_id, f"before {number}")
        invited_to = await alice.writes.create_room(invite=[bob.user_id])
        left = await carol.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        await bob.writes.act(left, "join")
        await bob.writes.act(left, "leave")
        await world.set_account_data(bob.user_id, room_id, "m.tag", {"tags": {}})
        await world.set_account_data(bob.user_id, RoomId(""), "m.x", {"y": 1})

        start = await _initial(bob, limit=2)
        rooms = {room["room_id"]: room for room in start["rooms"]}
        assert {each: room["membership"] for each, room in rooms.items()} == {room_id: "join", invited_to: "invite"}
        joined = rooms[room_id]
        assert joined["visibility"] == "private" and joined["account_data"] == [
            {"type": "m.tag", "content": {"tags": {}}}
        ]
        assert _bodies(joined["messages"]["chunk"]) == ["before 3"]  # and bob's own join
        assert _members(joined["state"]) == {alice.user_id: "join", bob.user_id: "join"}
        assert {e["type"] for e in joined["state"]} >= {"m.room.create", "m.room.name", "m.room.power_levels"}
        assert rooms[invited_to]["invite"]["content"]["membership"] == "invite"
        assert {"type": "m.x", "content": {"y": 1}} in start["account_data"]
        older = (await bob.room(room_id, "messages", dir="b", limit=2, **{"from": joined["messages"]["start"]})).json
        assert _bodies(older["chunk"]) == ["before 2", "before 1"]
        archived = await _initial(bob, archived=True)
        assert {r["room_id"]: r["membership"] for r in archived["rooms"]}[left] == "leave"

        nothing = await _events(bob, timeout=0, **{"from": start["end"]})
        assert nothing["chunk"] == [] and nothing["start"] == start["end"]
        waiting = asyncio.create_task(_events(bob, timeout=20_000, **{"from": nothing["end"]}))
        await soon(waiting)
        await alice.writes.send(room_id, "news")
        news = await waiting
        assert _bodies(news["chunk"]) == ["news"] and news["chunk"][0]["room_id"] == room_id
        # A joined room begins with the join, an invitation is its event. Any process takes the tokens of /sync.
        await bob.writes.act(invited_to, "join")
        await alice.writes.send(invited_to, "welcome")
        third = await alice.writes.create_room(invite=[bob.user_id])
        bob.synchrotron = 0
        more = await _events(bob, timeout=5_000, **{"from": news["end"]})
        in_room = [event for event in more["chunk"] if event.get("room_id") == invited_to]
        assert _members(in_room) == {bob.user_id: "join"} and _bodies(in_room) == ["welcome"]
        [invite] = [event for event in more["chunk"] if event.get("room_id") == third]
        assert invite["state_key"] == bob.user_id and invite["content"]["membership"] == "invite"
        assert (await bob.sync(more["end"]))["rooms"]["join"] == {}
        token = (await bob.sync())["next_batch"]
        await alice.writes.send(room_id, "after a sync")
        assert _bodies((await _events(bob, **{"from": token}))["chunk"]) == ["after a sync"]
        # Without a token the events begin now.
        waiting = asyncio.create_task(_events(bob))
        await soon(waiting)
        await alice.writes.send(room_id, "now")
        assert _bodies((await waiting)["chunk"]) == ["now"]
        for query in ({"from": "nonsense"}, {"from": "p1-7"}, {"timeout": "x"}, {"room_id": "nonsense"}):
            answer = await bob.get("/events", **query)
            assert (answer.status, answer.json["errcode"]) == (400, "M_INVALID_PARAM"), query


async def test_events_have_presence_receipts_and_account_data(postgres: TestDatabase) -> None:
    """Bots from before /sync rely on them, and read the user from the content of m.presence."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        await know_presence_writer(world, api)
        people = [await person(world, api, name) for name in ("alice", "bob")]
        alice, bob = people[0].reads, people[1].reads
        room_id = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(room_id, "join")
        sent = (await alice.writes.send(room_id, "read me")).json["event_id"]
        start = await _initial(bob)
        assert start["receipts"] == []
        assert "m.push_rules" in {event["type"] for event in start["account_data"]}

        tags: dict[str, Any] = {"tags": {"m.favourite": {}}}
        await world.set_receipt(room_id, alice.user_id, sent)
        online = f"/presence/{people[0].writes.quoted}/status"
        assert (await people[0].writes.call("PUT", online, {"presence": "online"})).status == 200
        await world.set_account_data(bob.user_id, room_id, "m.tag", tags)
        await world.set_account_data(bob.user_id, RoomId(""), "m.x", {"y": 2})
        chunk: list[Any] = []
        token = start["end"]
        while len(chunk) < 4:
            news = await _events(bob, timeout=5_000, **{"from": token})
            chunk, token = chunk + news["chunk"], news["end"]
        by_type = {event["type"]: event for event in chunk}
        assert by_type["m.receipt"]["room_id"] == room_id
        assert alice.user_id in by_type["m.receipt"]["content"][sent]["m.read"]
        assert by_type["m.tag"] == {"type": "m.tag", "content": tags, "room_id": room_id}
        assert by_type["m.x"] == {"type": "m.x", "content": {"y": 2}}
        assert by_type["m.presence"]["content"]["user_id"] == by_type["m.presence"]["sender"] == alice.user_id

        again = await _initial(bob)
        assert [receipt["room_id"] for receipt in again["receipts"]] == [room_id]
        assert alice.user_id in [event["content"]["user_id"] for event in again["presence"]]
        of_room = await _room_initial(bob, room_id)
        assert [receipt["room_id"] for receipt in of_room["receipts"]] == [room_id]
        assert [event["content"]["user_id"] for event in of_room["presence"]] == [alice.user_id]
        await bob.writes.act(room_id, "leave")
        gone = await _room_initial(bob, room_id)
        assert gone["receipts"] == gone["presence"] == []


async def test_events_have_a_limit_and_none_is_lost(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        rooms = [await alice.writes.create_room() for _ in range(2)]
        token = (await alice.sync())["next_batch"]
        for number in range(6):
            await alice.writes.send(rooms[number % 2], str(number))
        await bob.writes.create_room(invite=[alice.user_id])
        await alice.writes.send(rooms[0], "6")
        chunks: list[list[str]] = []
        at = token
        while not chunks or chunks[-1]:
            page = await _events(alice, limit=3, timeout=0, **{"from": at})
            assert page["start"] == at
            chunks.append([event["content"].get("body", event["type"]) for event in page["chunk"]])
            at = page["end"]
        assert chunks == [["0", "1", "2"], ["3", "4", "5"], ["6", "m.room.member"], []]
        first = await _events(alice, limit=2, room_id=rooms[0], **{"from": token})
        second = await _events(alice, limit=2, room_id=rooms[0], **{"from": first["end"]})
        assert [_bodies(page["chunk"]) for page in (first, second)] == [["0", "2"], ["4", "6"]]
        for query in ({}, {"room_id": rooms[0]}):
            assert (await alice.get("/events", limit=0, **query)).status == 400


async def test_limited_timeline_comes_after_its_state(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        room_id = await alice.writes.create_room()
        token = (await alice.sync())["next_batch"]
        await alice.writes.put_state(room_id, "m.room.topic", {"topic": "honey"})
        for number in range(101):
            await alice.writes.send(room_id, str(number))
        chunk = (await _events(alice, **{"from": token}))["chunk"]
        assert chunk[0]["type"] == "m.room.topic" and _bodies(chunk) == [str(number) for number in range(1, 101)]
        # Of a single room nothing is left out: the next response continues.
        first = await _events(alice, room_id=room_id, **{"from": token})
        second = await _events(alice, room_id=room_id, **{"from": first["end"]})
        assert _bodies(first["chunk"] + second["chunk"]) == [str(number) for number in range(101)]
        assert (await _events(alice, room_id=room_id, timeout=0, **{"from": second["end"]}))["chunk"] == []


async def test_previews_of_rooms(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, eve = world.user("alice"), world.user("eve")
        room_id = await alice.writes.create_room(preset="public_chat")
        for path, query in (("/events", {"room_id": room_id}), (f"/rooms/{room_id}/initialSync", {})):
            answer = await eve.get(path, **query)
            assert (answer.status, answer.json["errcode"]) == (403, "M_FORBIDDEN"), path
        await alice.writes.send(room_id, "among ourselves")
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
        await alice.writes.send(room_id, "to everybody")
        peek = await _room_initial(eve, room_id, limit=20)
        assert _bodies(peek["messages"]["chunk"]) == ["to everybody"] and "membership" not in peek
        assert _members(peek["state"]) == {alice.user_id: "join"}
        waiting = asyncio.create_task(
            _events(eve, room_id=room_id, timeout=20_000, **{"from": peek["messages"]["end"]})
        )
        await soon(waiting)
        elsewhere = await alice.writes.create_room()
        await alice.writes.send(elsewhere, "not hers")
        await soon(waiting)
        assert not waiting.done()
        await alice.writes.send(room_id, "live")
        seen = await waiting
        assert _bodies(seen["chunk"]) == ["live"]
        nothing = await _events(eve, room_id=room_id, timeout=50, **{"from": seen["end"]})
        assert nothing["chunk"] == []
        # The preview ends here, also for a waiting request.
        waiting = asyncio.create_task(eve.get("/events", room_id=room_id, timeout=20_000, **{"from": seen["end"]}))
        await soon(waiting)
        await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "joined"})
        assert (await waiting).json["errcode"] == "M_FORBIDDEN"
        # Members and former members may use it as well.
        mine = await _room_initial(alice, room_id)
        assert mine["membership"] == "join" and _bodies(mine["messages"]["chunk"])[-1] == "live"
        await eve.writes.act(room_id, "join")
        await eve.writes.act(room_id, "leave")
        await alice.writes.send(room_id, "when she had gone")
        gone = await _room_initial(eve, room_id)
        assert gone["membership"] == "leave" and "when she had gone" not in _bodies(gone["messages"]["chunk"])
        assert _members(gone["state"])[eve.user_id] == "leave"
