"""Unread counts in /sync, on real PostgreSQL with real persisters. Their arithmetic: tests/core/test_unread.py."""

import asyncio
from typing import Any
from urllib.parse import quote

from shared.core.identifiers import EventId, RoomId
from shared.storage.push.unread import get_unread
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, World, fleet, soon

_THREADS = {"room": {"timeline": {"unread_thread_notifications": True}}}


async def send(client: Client, room_id: RoomId, txn: str, **content: Any) -> EventId:
    """Send a text and return its event id."""
    body = {"msgtype": "m.text", "body": "hello", **content}
    path = f"/rooms/{quote(room_id, safe='')}/send/m.room.message/{txn}"
    answer = await client.writes.call("PUT", path, body)
    assert answer.status == 200, answer.body
    return answer.event_id


def in_thread(root: EventId) -> dict[str, Any]:
    return {"m.relates_to": {"rel_type": "m.thread", "event_id": root}}


def mention(client: Client) -> dict[str, Any]:
    return {"m.mentions": {"user_ids": [client.user_id]}}


def counts(answer: Any, room_id: RoomId) -> tuple[int, int]:
    """Return (notifications, highlights) of a room's section."""
    told = answer["rooms"]["join"][room_id]["unread_notifications"]
    return told["notification_count"], told["highlight_count"]


def threads(answer: Any, room_id: RoomId, key: str = "unread_thread_notifications") -> dict[str, tuple[int, int]]:
    told = answer["rooms"]["join"][room_id][key]
    return {root: (count["notification_count"], count["highlight_count"]) for root, count in told.items()}


async def two_in_a_room(world: World) -> tuple[Client, Client, RoomId]:
    alice, bob = world.user("alice"), world.user("bob")
    room_id = await alice.writes.create_room(preset="public_chat")
    await send(alice, room_id, "before bob came")
    await bob.writes.act(room_id, "join")
    return alice, bob, room_id


async def test_count_comes_with_its_event_and_costs_no_query(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, room_id = await two_in_a_room(world)
        first = await bob.sync()
        assert counts(first, room_id) == (0, 0)  # bob may not read events before the join
        token, process = first["next_batch"], world.synchrotrons[0]
        queries = process.metric("skep_sync_queries_total")
        for number in range(1, 6):
            waiting = asyncio.create_task(bob.sync(token, timeout=10_000))
            await soon(waiting)
            text = mention(bob) if number == 3 else {}
            event_id = await send(alice, room_id, str(number), **text)
            answer = await waiting
            (event,) = answer["rooms"]["join"][room_id]["timeline"]["events"]
            assert event["event_id"] == event_id
            assert counts(answer, room_id) == (number, int(number >= 3))
            token = answer["next_batch"]
        assert process.metric("skep_sync_queries_total") == queries
        again = await bob.sync()
        assert counts(again, room_id) == (5, 1)
        assert counts(await alice.sync(), room_id) == (0, 0)


async def test_receipts_of_every_kind(postgres: TestDatabase) -> None:
    """Of two devices: a receipt of one wakes the other, even if its filter hides receipts."""
    hidden = {"room": {"ephemeral": {"types": []}, "timeline": {"unread_thread_notifications": True}}}
    async with fleet(postgres.dsn) as world:
        alice, bob, room_id = await two_in_a_room(world)
        phone = world.user("bob", "PHONE")
        root = await send(alice, room_id, "root")
        sent = [await send(alice, room_id, f"m{n}") for n in range(4)]
        replies = [await send(alice, room_id, f"t{n}", **in_thread(root)) for n in range(3)]
        other = await send(alice, room_id, "o", **in_thread(sent[0]), **mention(bob))
        token = (await phone.sync(filter=hidden))["next_batch"]
        await bob.sync()

        async def read(event_id: EventId, kind: str = "m.read", thread_id: str = "") -> Any:
            nonlocal token
            await world.set_receipt(room_id, bob.user_id, event_id, kind, thread_id)
            answer = await phone.sync(token, filter=hidden, timeout=5_000)
            token = answer["next_batch"]
            return counts(answer, room_id), threads(answer, room_id)

        assert await read(sent[0], thread_id="main") == ((3, 0), {root: (3, 0), sent[0]: (1, 1)})
        assert await read(sent[2], "m.read.private", "main") == ((1, 0), {root: (3, 0), sent[0]: (1, 1)})
        assert await read(sent[1], thread_id="main") == ((1, 0), {root: (3, 0), sent[0]: (1, 1)})
        assert await read(replies[1], thread_id=root) == ((1, 0), {root: (1, 0), sent[0]: (1, 1)})
        assert counts(await bob.sync(), room_id) == (3, 1)  # without threads: all together
        assert await read(replies[2], "m.read.private") == ((0, 0), {sent[0]: (1, 1)})
        assert await read(other) == ((0, 0), {})
        old = {"room": {"timeline": {"org.matrix.msc3773.unread_thread_notifications": True}}}
        await send(alice, room_id, "last", **in_thread(root))
        answer = await bob.sync(filter=old)
        assert threads(answer, room_id, "org.matrix.msc3773.unread_thread_notifications") == {root: (1, 0)}


async def test_own_events_redactions_and_rejoins(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice, bob, room_id = await two_in_a_room(world)
        nid = await world.database.fetchval("SELECT room_nid FROM rooms WHERE room_id = $1", room_id)
        token = (await bob.sync(filter=_THREADS))["next_batch"]

        async def now() -> Any:
            """The counts in memory equal those read from the totals."""
            nonlocal token
            answer = await bob.sync(token, filter=_THREADS)
            token = answer["next_batch"]
            last = await world.database.fetchval("SELECT max(ordinal) FROM events WHERE room_nid = $1", nid)
            found = (await get_unread(world.database, bob.user_id, nid, last)).counts
            told = {"": counts(answer, room_id), **threads(answer, room_id)}
            assert {thread: count for thread, count in told.items() if any(count)} == found
            return told[""], threads(answer, room_id)

        root = await send(alice, room_id, "root")
        reply = await send(alice, room_id, "reply", **in_thread(root), **mention(bob))
        second = await send(alice, room_id, "second")
        assert await now() == ((2, 0), {root: (1, 1)})
        await alice.writes.redact(room_id, second)
        assert await now() == ((1, 0), {root: (1, 1)})
        await alice.writes.redact(room_id, reply)
        assert await now() == ((1, 0), {})
        await send(alice, room_id, "another", **in_thread(root))
        await send(bob, room_id, "bob's answer", **in_thread(root))
        assert await now() == ((1, 0), {})
        await send(bob, room_id, "and here")
        await send(alice, room_id, "another one", **in_thread(root))
        assert await now() == ((0, 0), {root: (1, 0)})
        await bob.writes.act(room_id, "leave")
        await send(alice, room_id, "while bob was away")
        await bob.writes.act(room_id, "join")
        await send(alice, room_id, "welcome back")
        assert await now() == ((1, 0), {})


async def test_events_that_a_filter_hides_still_count(postgres: TestDatabase) -> None:
    only_counts: dict[str, Any] = {
        "room": {"timeline": {"types": []}, "state": {"types": []}, "ephemeral": {"types": []}}
    }
    async with fleet(postgres.dsn) as world:
        alice, bob, room_id = await two_in_a_room(world)
        token = (await bob.sync(filter=only_counts))["next_batch"]
        waiting = asyncio.create_task(bob.sync(token, filter=only_counts, timeout=10_000))
        await soon(waiting)
        sent = await send(alice, room_id, "1")
        answer = await waiting
        section = answer["rooms"]["join"][room_id]
        assert (counts(answer, room_id), section["timeline"]["events"]) == ((1, 0), [])
        waiting = asyncio.create_task(bob.sync(answer["next_batch"], filter=only_counts, timeout=10_000))
        await soon(waiting)
        await world.set_receipt(room_id, alice.user_id, sent)  # another user's receipt changes no count here
        await soon(waiting)
        assert not waiting.done()
        await world.set_receipt(room_id, bob.user_id, sent)
        assert counts(await waiting, room_id) == (0, 0)


async def test_evicted_room_is_counted_again(postgres: TestDatabase) -> None:
    """Memory holds nothing: every response reads the counts, and they are the same."""
    async with fleet(postgres.dsn, rooms_bytes=1) as world:
        alice, bob, room_id = await two_in_a_room(world)
        other = await alice.writes.create_room(preset="public_chat")
        await bob.writes.act(other, "join")
        token = (await bob.sync())["next_batch"]
        for number in range(1, 4):
            await send(alice, room_id, f"a{number}", **mention(bob))
            await send(alice, other, f"b{number}")
            answer = await bob.sync(token)
            token = answer["next_batch"]
            assert counts(answer, room_id) == (number, number)
            assert counts(answer, other) == (number, 0)
