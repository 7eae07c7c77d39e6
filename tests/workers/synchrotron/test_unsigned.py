"""`unsigned` of events for each reader. Spec: client-server API, UnsignedData; "Redactions"."""

from urllib.parse import quote

import orjson

from shared.core.identifiers import UserId
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.viewpoint import Viewpoint
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet
from tests.workers.synchrotron.events import event


async def test_prev_content_is_for_users_who_could_see_it(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        joined = {"type": "m.room.history_visibility", "content": {"history_visibility": "joined"}}
        room_id = await alice.writes.create_room(preset="public_chat", initial_state=[joined])
        first = (await alice.writes.put_state(room_id, "m.room.topic", {"topic": "first"})).event_id
        await bob.writes.act(room_id, "join")
        second = (await alice.writes.put_state(room_id, "m.room.topic", {"topic": "second"})).event_id
        third = (await alice.writes.put_state(room_id, "m.room.topic", {"topic": "third"})).event_id
        for client, event_id, replaced, content in (
            (alice, second, first, {"topic": "first"}),
            (bob, second, first, None),
            (bob, third, second, {"topic": "second"}),
        ):
            event = (await client.room(room_id, f"event/{quote(event_id)}")).json
            timeline = (await client.sync())["rooms"]["join"][room_id]["timeline"]["events"]
            synced = next(each for each in timeline if each["event_id"] == event_id)
            for shown in (event, synced):
                assert shown["unsigned"]["replaces_state"] == replaced
                assert shown["unsigned"].get("prev_content") == content
        assert "replaces_state" not in (await alice.room(room_id, f"event/{quote(first)}")).json["unsigned"]


async def test_membership_of_the_reader_at_each_event(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob = world.user("alice"), world.user("bob")
        room_id = await alice.writes.create_room(preset="public_chat")
        before = (await alice.writes.send(room_id, "before")).event_id
        await alice.writes.act(room_id, "invite", {"user_id": bob.user_id})
        invited = (await alice.writes.send(room_id, "invited")).event_id
        await bob.writes.act(room_id, "join")
        joined = (await alice.room(room_id, f"state/m.room.member/{bob.user_id}", format="event")).json["event_id"]
        after = (await alice.writes.send(room_id, "after")).event_id
        wanted = {before: "leave", invited: "invite", joined: "join", after: "join"}
        timeline = (await bob.sync())["rooms"]["join"][room_id]["timeline"]["events"]
        page = (await bob.room(room_id, "messages", dir="b", limit=100)).json["chunk"]
        for events in (timeline, page):
            told = {event["event_id"]: event["unsigned"]["membership"] for event in events}
            assert {event_id: told[event_id] for event_id in wanted} == wanted


def test_transaction_id_is_shown_to_the_device_that_sent_the_event() -> None:
    """A device that was logged out and in again is another one: it must not take old events for its own."""
    sent = event(1, sender=UserId("@alice:x"))
    sent.txn_device, sent.txn_id, sent.origin_server_ts = "PHONE", "t1", 100_000
    view = Viewpoint(UserId("@alice:x"), (), ())
    for reader, shown in (
        (Reader(UserId("@alice:x"), "PHONE", 200_000), "t1"),
        (Reader(UserId("@alice:x"), "PHONE", 200_000, device_created_ms=90_000), "t1"),
        (Reader(UserId("@alice:x"), "PHONE", 200_000, device_created_ms=101_000), "t1"),  # the clocks of two processes
        (Reader(UserId("@alice:x"), "PHONE", 200_000, device_created_ms=110_000), None),
        (Reader(UserId("@alice:x"), "DESK", 200_000), None),
        (Reader(UserId("@alice:x"), None, 200_000), None),
        (Reader(UserId("@bob:x"), "PHONE", 200_000), None),
    ):
        unsigned = orjson.loads(orjson.dumps(shown_event(sent, reader, view)))["unsigned"]
        assert unsigned.get("transaction_id") == shown, reader
