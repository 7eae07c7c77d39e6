"""A row lock of one room does not delay other rooms, and its events are stored in order after the unlock."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import orjson
import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.rigs.requests import Answer
from tests.room_checks import assert_rooms_agree
from workers.event_persister.commit import locked_rooms

EXTREMITIES = "SELECT FROM forward_extremities e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 FOR UPDATE OF e"
STATE = """
    SELECT FROM current_state s JOIN rooms r USING (room_nid) WHERE r.room_id = $1 AND s.type = 'm.room.topic'
    FOR UPDATE OF s
"""
EVENT = "SELECT FROM events e JOIN rooms r USING (room_nid) WHERE r.room_id = $1 AND ordinal = 7 FOR UPDATE OF e"


@asynccontextmanager
async def held(postgres: TestDatabase, lock: str, *args: object) -> AsyncIterator[None]:
    """Hold a lock in another transaction."""
    conn = await asyncpg.connect(postgres.dsn)
    try:
        async with conn.transaction():
            await conn.execute(lock, *args)
            yield
    finally:
        await conn.close()


async def _talk(user: User, room_id: RoomId, until: asyncio.Event, seconds: list[float]) -> int:
    """Send one message after another; return how many were refused."""
    refused = 0
    while not until.is_set():
        began = time.perf_counter()
        refused += (await user.send(room_id, "hum")).status != 200
        seconds.append(time.perf_counter() - began)
        await asyncio.sleep(0.005)
    return refused


async def _talk_for(alice: User, rooms: list[RoomId], duration_s: float) -> list[float]:
    until, seconds = asyncio.Event(), list[float]()
    talks = [asyncio.create_task(_talk(alice, room_id, until, seconds)) for room_id in rooms]
    await asyncio.sleep(duration_s)
    until.set()
    assert await asyncio.gather(*talks) == [0] * len(rooms)
    return seconds


async def _texts(persister: Persister, room_id: RoomId) -> list[str]:
    rows = await persister.timeline(room_id)
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    assert [list(row["prev_nids"]) for row in rows[1:]] == [[row["event_nid"]] for row in rows[:-1]]
    assert [row.event_id for row in persister.bus.rows() if row.room_id == room_id] == [r["event_id"] for r in rows]
    return [
        event["body"] for row in rows if row["type"] == "m.room.message" and "body" in (event := _content(row["json"]))
    ]


def _content(json: bytes) -> dict[str, str]:

    content: dict[str, str] = orjson.loads(json)["content"]
    return content


def _count(persister: Persister, name: str) -> float:
    return persister.foundation.registry.get_sample_value(name) or 0.0


async def _sent_in_order(alice: User, room_id: RoomId, first: int, count: int) -> list["asyncio.Task[Answer]"]:
    tasks = []
    for number in range(first, first + count):
        tasks.append(asyncio.create_task(alice.send(room_id, f"m{number}", f"locked{number}")))
        await asyncio.sleep(0.01)
    return tasks


@pytest.mark.parametrize("hold_s", [3.0, pytest.param(30.0, marks=pytest.mark.soak)])
async def test_locked_room_does_not_delay_other_rooms(
    postgres: TestDatabase, hold_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Architecture page, P6: one slow room never delays the others."""
    monkeypatch.setattr(locked_rooms, "GIVE_UP_AFTER_S", hold_s + 10)
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        locked, *rooms = [await alice.create_room() for _ in range(9)]
        async with held(postgres, EXTREMITIES, locked):
            sent = asyncio.create_task(_sent_in_order(alice, locked, 0, 20))
            loud = await _talk_for(alice, rooms, hold_s)
            tasks = await sent
            assert not any(task.done() for task in tasks)
        answers = [await task for task in tasks]
        assert {answer.status for answer in answers} == {200}
        assert await _texts(persister, locked) == [f"m{n}" for n in range(20)]
        # One statement met the lock. After that the persister polled the lock without writing.
        assert _count(persister, "skep_persister_statements_refused_total") == 1
        assert _count(persister, "skep_persister_lock_timeouts_total") == 1
        assert _count(persister, "skep_persister_rooms_apart") == 0
        # So no other send of the other rooms can have waited for the lock.
        print(f"{len(loud)} sends, the longest took {max(loud) * 1000:.0f} ms")
        assert max(loud) < hold_s / 2
    await assert_rooms_agree(postgres.dsn)


async def test_writes_wait_for_locked_state_and_locked_redacted_event(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        topical, redacted, free = [await alice.create_room() for _ in range(3)]
        assert (await alice.put_state(topical, "m.room.topic", {"topic": "old"})).status == 200
        assert (await alice.send(redacted, "to be redacted")).status == 200
        target = (await persister.timeline(redacted))[6]["event_id"]
        async with held(postgres, STATE, topical), held(postgres, EVENT, redacted):
            statements = persister.foundation.writer.statements
            waiting = []
            for call in (
                alice.put_state(topical, "m.room.topic", {"topic": "new"}),
                alice.send(topical, "after the topic"),
                alice.redact(redacted, target),
                alice.send(redacted, "after the redaction"),
            ):
                waiting.append(asyncio.create_task(call))
                await asyncio.sleep(0.02)
            assert (await alice.send(free, "hum")).status == 200
            await asyncio.sleep(0.6)
            assert not any(task.done() for task in waiting)
            # The locks are polled without writing: one statement met both locks, or each met one.
            assert persister.foundation.writer.statements - statements <= 4
        assert [(await task).status for task in waiting] == [200] * 4
        assert await persister.content(topical, "m.room.topic") == {"topic": "new"}
        assert (await _texts(persister, topical))[-1] == "after the topic"
        assert (await _texts(persister, redacted))[-1] == "after the redaction"
        row = (await persister.timeline(redacted))[6]
        assert row["redacted_by"] == (await persister.timeline(redacted))[-2]["event_nid"]
    await assert_rooms_agree(postgres.dsn)


async def test_writes_to_a_room_that_stays_locked_fail_until_it_is_unlocked(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locked_rooms, "GIVE_UP_AFTER_S", 0.6)
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        locked, free = await alice.create_room(), await alice.create_room()
        async with held(postgres, EXTREMITIES, locked):
            answers = [await task for task in await _sent_in_order(alice, locked, 0, 3)]
            assert {answer.status for answer in answers} == {503}
            # The lock is known now: later events delay no other room, not even by one time-out.
            timeouts = _count(persister, "skep_persister_lock_timeouts_total")
            again = await _sent_in_order(alice, locked, 3, 3)
            assert (await alice.send(free, "hum")).status == 200
            assert _count(persister, "skep_persister_lock_timeouts_total") == timeouts
            assert {(await task).status for task in again} == {503}
            last = await _sent_in_order(alice, locked, 0, 6)  # a client retries with the same transaction ids
            await asyncio.sleep(0.1)
        assert {(await task).status for task in last} == {200}
        assert await _texts(persister, locked) == [f"m{n}" for n in range(6)]
    await assert_rooms_agree(postgres.dsn)


async def test_creation_waits_for_an_uncommitted_alias(postgres: TestDatabase) -> None:
    """Another transaction inserts the alias of a new room: there is no row to poll, only a statement that waits."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        rooms = [await alice.create_room() for _ in range(6)]
        alias = "INSERT INTO room_aliases VALUES ('#bees:example.org', 1, '@a:b', 1)"
        async with held(postgres, alias):
            creation = asyncio.create_task(alice.call("POST", "/createRoom", {"room_alias_name": "bees"}))
            others = await asyncio.gather(*(alice.send(room_id, "hum") for room_id in rooms))
            assert {answer.status for answer in others} == {200}
            await asyncio.sleep(0.5)
            assert not creation.done()
        answer = await creation
        assert (answer.status, answer.errcode) == (400, "M_ROOM_IN_USE")
    await assert_rooms_agree(postgres.dsn)


async def test_sends_wait_for_a_locked_table(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        rooms = [await alice.create_room() for _ in range(5)]
        async with held(postgres, "LOCK TABLE forward_extremities IN ACCESS EXCLUSIVE MODE"):
            sends = [asyncio.create_task(alice.send(room_id, f"{n}")) for n in range(4) for room_id in rooms]
            await asyncio.sleep(1.5)
            assert not any(task.done() for task in sends)
        assert {(await task).status for task in sends} == {200}
        for room_id in rooms:
            assert await _texts(persister, room_id) == ["0", "1", "2", "3"]
    await assert_rooms_agree(postgres.dsn)


async def test_excess_events_of_a_locked_room_fail(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locked_rooms, "_MAX_EVENTS_OF_ROOM", 10)
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        locked = await alice.create_room()
        async with held(postgres, EXTREMITIES, locked):
            first = await _sent_in_order(alice, locked, 0, 10)
            await asyncio.sleep(0.3)
            assert not any(task.done() for task in first)
            assert (await alice.send(locked, "one too many")).status == 503
            assert {(await task).status for task in first} == {503}
        assert (await alice.send(locked, "after")).status == 200
        assert await _texts(persister, locked) == ["after"]
    await assert_rooms_agree(postgres.dsn)


async def test_drain_does_not_wait_for_locked_rooms(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        locked = await alice.create_room()
        async with held(postgres, EXTREMITIES, locked):
            [task] = await _sent_in_order(alice, locked, 0, 1)
            await asyncio.sleep(0.3)
            await persister.drain()
            assert (await task).status == 503
    await assert_rooms_agree(postgres.dsn)
