"""Reading rooms: /messages, /context, /event, /state, /members, /joined_members."""

from typing import Any
from urllib.parse import quote

from tests.fix_servers import TestDatabase
from tests.workers.event_persister.rig import run
from tests.workers.synchrotron.rig import fleet


def bodies(events: Any) -> list[str]:
    return [event["content"].get("body", event["type"]) for event in events]


def test_pages_in_both_directions(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, mallory = world.user("alice"), world.user("mallory")
            room_id = await alice.writes.create_room()
            sent = [(await alice.writes.send(room_id, str(n))).event_id for n in range(7)]
            found: list[str] = []
            query: dict[str, Any] = {}
            while True:
                page = (await alice.room(room_id, "messages", dir="b", limit=3, **query)).json
                assert all(event["room_id"] == room_id for event in page["chunk"])
                found += [event["event_id"] for event in page["chunk"]]
                if "end" not in page:
                    break
                query = {"from": page["end"]}
            assert found[:7] == sent[::-1]
            forward: list[str] = []
            query = {}
            while True:
                page = (await alice.room(room_id, "messages", dir="f", limit=4, **query)).json
                forward += [event["event_id"] for event in page["chunk"]]
                if "end" not in page:
                    break
                query = {"from": page["end"]}
            assert forward == found[::-1]
            only = {"types": ["m.room.message"], "lazy_load_members": True}
            page = (await alice.room(room_id, "messages", dir="b", limit=100, filter=only)).json
            assert bodies(page["chunk"]) == ["6", "5", "4", "3", "2", "1", "0"]
            assert [event["state_key"] for event in page["state"]] == [alice.user_id]
            for query, errcode in (
                ({}, "M_MISSING_PARAM"),
                ({"dir": "x"}, "M_INVALID_PARAM"),
                ({"dir": "b", "from": "x"}, "M_INVALID_PARAM"),
                ({"dir": "b", "limit": "-1"}, "M_INVALID_PARAM"),
                ({"dir": "b", "filter": "{"}, "M_NOT_JSON"),
                ({"dir": "b", "filter": '{"types": 1}'}, "M_BAD_JSON"),
            ):
                answer = await alice.room(room_id, "messages", **query)
                assert (answer.status, answer.errcode) == (400, errcode), query
            refused = await mallory.room(room_id, "messages", dir="b")
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
            unknown = await alice.room("!nothing:example.org", "messages", dir="b")
            assert (unknown.status, unknown.errcode) == (403, "M_FORBIDDEN")

    run(scenario())


def test_context_and_event(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, mallory = world.user("alice"), world.user("mallory")
            room_id = await alice.writes.create_room()
            sent = [(await alice.writes.send(room_id, str(n), txn=f"x{n}")).event_id for n in range(7)]
            context = (await alice.room(room_id, f"context/{quote(sent[3])}", limit=4)).json
            assert bodies(context["events_before"]) == ["2", "1"]
            assert bodies(context["events_after"]) == ["4", "5"]
            assert context["event"]["unsigned"]["transaction_id"] == "x3"
            assert {event["type"] for event in context["state"]} >= {"m.room.create", "m.room.member"}
            query = {"from": context["start"]}
            page = (await alice.room(room_id, "messages", dir="b", limit=1, **query)).json
            assert bodies(page["chunk"]) == ["0"]
            query = {"from": context["end"]}
            page = (await alice.room(room_id, "messages", dir="f", limit=5, **query)).json
            assert bodies(page["chunk"]) == ["6"]
            alone = (await alice.room(room_id, f"context/{quote(sent[3])}", limit=0)).json
            assert alone["events_before"] == alone["events_after"] == []
            assert (await alice.room(room_id, f"event/{quote(sent[3])}")).json["content"]["body"] == "3"
            for reader, path, status in (
                (mallory, f"event/{quote(sent[3])}", 404),
                (alice, "event/$nothing", 404),
                (alice, "context/$nothing", 404),
                (alice, "event/%00", 404),
                (mallory, f"context/{quote(sent[3])}", 403),
            ):
                answer = await reader.room(room_id, path)
                assert answer.status == status, path

    run(scenario())


def test_state_and_members_then_and_now(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world:
            alice, bob, mallory = (world.user(name) for name in ("alice", "bob", "mallory"))
            room_id = await alice.writes.create_room(preset="public_chat", name="first")
            early = (await alice.sync())["next_batch"]
            await bob.writes.act(room_id, "join")
            assert (await alice.room(room_id, "state/m.room.name")).json == {"name": "first"}
            whole = (await alice.room(room_id, "state/m.room.name/", format="event")).json
            assert whole["content"] == {"name": "first"} and whole["room_id"] == room_id
            assert (await alice.room(room_id, "state/m.room.topic")).errcode == "M_NOT_FOUND"
            assert (await mallory.room(room_id, "state")).errcode == "M_FORBIDDEN"
            joined = (await bob.room(room_id, "joined_members")).json["joined"]
            assert set(joined) == {alice.user_id, bob.user_id}
            before = (await alice.room(room_id, "members", at=early)).json["chunk"]
            assert [member["state_key"] for member in before] == [alice.user_id]
            await bob.writes.act(room_id, "leave")
            await alice.writes.put_state(room_id, "m.room.name", {"name": "second"})
            await alice.writes.send(room_id, "after")
            # Bob sees the room as he left it.
            assert (await bob.room(room_id, "state/m.room.name")).json == {"name": "first"}
            names = [e["content"] for e in (await bob.room(room_id, "state")).json if e["type"] == "m.room.name"]
            assert names == [{"name": "first"}]
            page = (await bob.room(room_id, "messages", dir="b", limit=1)).json
            assert [event["content"]["membership"] for event in page["chunk"]] == ["leave"]
            assert (await bob.room(room_id, "joined_members")).errcode == "M_FORBIDDEN"
            gone = (await alice.room(room_id, "members", membership="leave")).json["chunk"]
            assert [member["state_key"] for member in gone] == [bob.user_id]
            here = (await alice.room(room_id, "members", not_membership="leave")).json["chunk"]
            assert [member["state_key"] for member in here] == [alice.user_id]
            await alice.writes.put_state(room_id, "m.room.history_visibility", {"history_visibility": "world_readable"})
            await alice.writes.send(room_id, "for all")
            page = (await mallory.room(room_id, "messages", dir="b")).json
            assert bodies(page["chunk"]) == ["for all", "m.room.history_visibility"]

    run(scenario())
