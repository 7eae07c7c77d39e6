"""Grouped commits under faults: a poisoned event, a lost lease, a second owner, repeated transactions."""

import asyncio
import dataclasses
import itertools
import math
import random
import string
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from shared.core.events import parse_event
from shared.core.identifiers import EventId, RoomId
from shared.core.room_versions import get_room_version
from shared.storage.events.batch import EventBatch
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from workers.event_persister.commit import batches, committer
from workers.event_persister.room.live_room import Write

POISON = """
    CREATE FUNCTION refuse_poison() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF position('poison' IN encode(NEW.json, 'escape')) > 0 THEN RAISE EXCEPTION 'poisoned'; END IF;
      RETURN NEW;
    END $$;
    CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION refuse_poison();
"""


async def _check_chain(persister: Persister, room_id: RoomId) -> list[str]:
    """Check that events follow one another with dense ordinals; return the texts of messages."""
    rows = await persister.timeline(room_id)
    assert [row["ordinal"] for row in rows] == list(range(1, len(rows) + 1))
    assert [row["position"] for row in rows] == sorted(row["position"] for row in rows)
    events = [parse_event(get_room_version("12"), row["json"]) for row in rows]
    for before, after in itertools.pairwise(events):
        assert after.prev_event_ids == (before.event_id,)
    assert [list(row["prev_nids"]) for row in rows[1:]] == [[row["event_nid"]] for row in rows[:-1]]
    return [event.content["body"] for event in events if event.type == "m.room.message"]


async def test_poisoned_event_fails_alone(postgres: TestDatabase) -> None:
    """Protocol notes, A18: one bad event in a batch of 50 fails, and nothing else does."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        rooms = [await alice.create_room() for _ in range(5)]
        await persister.foundation.database.execute(POISON)
        texts = [f"message {n}" for n in range(50)]
        texts[23] = "poison"
        answers = await asyncio.gather(*(alice.send(rooms[n % 5], text) for n, text in enumerate(texts)))
        assert [n for n, answer in enumerate(answers) if answer.status != 200] == [23]
        assert answers[23].status == 400
        for n, room_id in enumerate(rooms):
            assert await _check_chain(persister, room_id) == [t for t in texts[n::5] if t != "poison"]
        stored = {row.event_id for row in persister.bus.rows()}
        assert {answer.event_id for answer in answers if answer.status == 200} <= stored
        # Later events are built on the stored ones.
        assert (await alice.send(rooms[3], "after")).status == 200
        assert (await _check_chain(persister, rooms[3]))[-1] == "after"


def _index_row(persister: Persister, monkeypatch: pytest.MonkeyPatch) -> tuple[User, str]:
    return persister.user("alice"), "".join(random.choices(string.ascii_letters + string.digits, k=6000))


def _store_changed(monkeypatch: pytest.MonkeyPatch, text: str, **fields: Any) -> None:
    """Replace fields of the events with this text when they are stored."""

    def batch_with_changes(writes: Sequence[Write], server_name: str) -> EventBatch:
        batch = batches.batch_of(writes, server_name)
        batch.events = [
            dataclasses.replace(event, **fields) if text.encode() in event.json else event for event in batch.events
        ]
        return batch

    monkeypatch.setattr(committer, "batch_of", batch_with_changes)


def _overflow(persister: Persister, monkeypatch: pytest.MonkeyPatch) -> tuple[User, str]:
    """A value that asyncpg refuses to send."""
    _store_changed(monkeypatch, "overflow", depth=1 << 63)
    return persister.user("alice"), "overflow"


def _surrogate(persister: Persister, monkeypatch: pytest.MonkeyPatch) -> tuple[User, str]:
    """Text without a UTF-8 form."""
    _store_changed(monkeypatch, "surrogate", txn_device="\ud800")
    return persister.user("alice"), "surrogate"


def _constraint(persister: Persister, monkeypatch: pytest.MonkeyPatch) -> tuple[User, str]:
    return persister.user("alice"), "constraint"


@pytest.mark.parametrize("poison", [_surrogate, _index_row, _overflow, _constraint])
async def test_event_refused_by_the_database_fails_alone(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch, poison: Callable[..., tuple[User, str]]
) -> None:
    """It is in the middle of a batch of 50. The 49 others are stored in order with few extra statements."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        rooms = [await alice.create_room() for _ in range(5)]
        spoiler, text = poison(persister, monkeypatch)
        await persister.foundation.database.execute("CREATE INDEX ON events (json)")
        await persister.foundation.database.execute(
            "ALTER TABLE events ADD CHECK (position('constraint' IN encode(json, 'escape')) = 0) NOT VALID"
        )
        before = persister.foundation.writer.statements
        sends = [alice.send(rooms[n % 5], f"message {n}") for n in range(51)]
        sends[26].close()
        sends[26] = spoiler.send(rooms[26 % 5], text)
        answers = await asyncio.gather(*sends)
        assert [(n, a.status, a.errcode) for n, a in enumerate(answers) if a.status != 200] == [(26, 400, "M_UNKNOWN")]
        for n, room_id in enumerate(rooms):
            assert await _check_chain(persister, room_id) == [f"message {m}" for m in range(n, 51, 5) if m != 26]
        # The first event alone, then 50, halved down to the faulty one. The other halves are stored.
        assert persister.foundation.writer.statements - before <= 1 + 1 + 2 * math.ceil(math.log2(50))


@pytest.mark.parametrize("every", [1, 2, 5])
async def test_many_poisoned_events_cost_a_bounded_number_of_statements(postgres: TestDatabase, every: int) -> None:
    async with event_persister(postgres.dsn) as persister:
        users = [persister.user(f"user{n}") for n in range(5)]  # one alone may not have so many requests under way
        rooms = [await user.create_room() for user in users]
        await persister.foundation.database.execute(POISON)
        texts = ["poison" if n % every == 0 else f"message {n}" for n in range(50 * every + 1)]
        before, began = persister.foundation.writer.statements, time.process_time()
        answers = await asyncio.gather(*(users[n % 5].send(rooms[n % 5], text) for n, text in enumerate(texts)))
        assert time.process_time() - began < 3.0
        assert [a.status for a in answers] == [400 if text == "poison" else 200 for text in texts]
        for n, room_id in enumerate(rooms):
            assert await _check_chain(persister, room_id) == [t for t in texts[n::5] if t != "poison"]
        bound = min(2 * len(texts), 2 * 51 * (1 + math.log2(len(texts) / 51)) + 4)
        assert persister.foundation.writer.statements - before <= bound


async def test_events_built_on_a_failed_event_are_authorized_again(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice, bob = persister.user("alice"), persister.user("bob")
        await persister.foundation.database.execute(POISON)

        async def promote_and_use(note: str) -> tuple[RoomId, list[int]]:
            """Bob's topic needs the power level from Alice's event, which is not stored yet."""
            room_id = await alice.create_room(preset="public_chat")
            await bob.act(room_id, "join")
            levels = {"users": {bob.user_id: 50}, "note": note}
            answers = await asyncio.gather(
                alice.put_state(room_id, "m.room.power_levels", levels),
                bob.put_state(room_id, "m.room.topic", {"topic": "by bob"}),
                alice.send(room_id, "hello"),
            )
            return room_id, [answer.status for answer in answers]

        room_id, statuses = await promote_and_use("clean")
        assert statuses == [200, 200, 200]
        room_id, statuses = await promote_and_use("poison")
        assert statuses == [400, 403, 200]
        assert await _check_chain(persister, room_id) == ["hello"]
        assert await persister.content(room_id, "m.room.topic") is None


async def test_lost_lease_writes_nothing(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        before = await persister.sql("SELECT count(*) FROM events")
        await persister.sql("UPDATE leases SET revoked = true")
        answers = await asyncio.gather(*(alice.send(room_id, "too late") for _ in range(5)))
        assert {answer.status for answer in answers} == {503}
        assert (await alice.act(room_id, "leave")).status == 503
        assert (await alice.call("POST", "/createRoom", {})).status == 503
        assert await persister.sql("SELECT count(*) FROM events") == before


async def test_second_owner_cannot_write_the_same_ordinal(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as one, event_persister(postgres.dsn) as two:
        alice, same_alice = one.user("alice"), two.user("alice")
        room_id = await alice.create_room()
        assert (await same_alice.send(room_id, "by two")).status == 200
        refused = await alice.send(room_id, "by one, who does not know")
        assert refused.status == 503
        assert one.slots.refreshed == 1
        assert (await alice.send(room_id, "by one, who has looked")).status == 200
        assert await _check_chain(one, room_id) == ["by two", "by one, who has looked"]


async def test_retry_with_same_txn_id_returns_first_event(postgres: TestDatabase) -> None:
    """Protocol notes, B1."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id, other_room = await alice.create_room(), await alice.create_room()
        first = await alice.send(room_id, "hello", "m1")
        assert (await alice.send(room_id, "hello", "m1")).body == first.body
        together = await asyncio.gather(*(alice.send(room_id, "twice", "m2") for _ in range(5)))
        assert len({answer.event_id for answer in together}) == 1
        assert (await alice.send(other_room, "hello", "m1")).event_id != first.event_id
        second_device = persister.user("alice", "OTHER")
        assert (await second_device.send(room_id, "hello", "m1")).event_id != first.event_id
        row = next(row for row in persister.bus.rows() if row.event_id == first.event_id)
        assert (row.txn_device, row.txn_id) == ("DEVICE", "m1")
        redacted = await alice.call("PUT", f"/rooms/{room_id}/redact/{first.event_id}/m3", {})
        again = await alice.call("PUT", f"/rooms/{room_id}/redact/{first.event_id}/m3", {})
        assert again.event_id == redacted.event_id
        # After a restart, and when the transaction is too old for memory.
        async with event_persister(postgres.dsn) as second:
            assert (await second.user("alice").send(room_id, "hello", "m1")).event_id == first.event_id
        await persister.sql("UPDATE client_transactions SET created_ms = created_ms - 4000000")
        async with event_persister(postgres.dsn) as third:
            same = third.user("alice")
            answers = await asyncio.gather(
                same.send(room_id, "before"),
                same.send(room_id, "hello", "m1"),
                same.send(room_id, "after"),
            )
            assert answers[1].event_id == first.event_id
            assert {answer.status for answer in answers} == {200}
            texts = await _check_chain(third, room_id)
            assert texts[-2:] == ["before", "after"]


async def test_txn_id_ends_with_its_device(postgres: TestDatabase) -> None:
    """After a log-out, a log-in with the same device id begins another device, whose messages must not be lost."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        first = await alice.send(room_id, "hello", "m1")
        persister.tokens.logged_in_ms[alice.user_id, "DEVICE"] = 1
        new = await alice.send(room_id, "another message", "m1")
        assert new.event_id != first.event_id
        assert (await alice.send(room_id, "another message", "m1")).event_id == new.event_id
        redacted = await alice.call("PUT", f"/rooms/{room_id}/redact/{first.event_id}/m1", {})
        persister.tokens.logged_in_ms[alice.user_id, "DEVICE"] = 2
        assert (await alice.call("PUT", f"/rooms/{room_id}/redact/{new.event_id}/m1", {})).event_id != redacted.event_id


async def test_nul_in_events_is_stored_and_read_back(postgres: TestDatabase) -> None:
    """NUL is legal in Matrix strings, but PostgreSQL refuses it in text: content, types and state keys keep it."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        assert (await alice.send(room_id, "a\x00b")).status == 200
        answer = await alice.call("PUT", f"/rooms/{room_id}/state/my%00type/k%00%1aey", {"x": "\x00"})
        assert answer.status == 200, answer.body
        row = persister.bus.rows()[-1]
        assert (row.type, row.state_key) == ("my\x00type", "k\x00\x1aey")
        again = await alice.call("PUT", f"/rooms/{room_id}/state/my%00type/k%00%1aey", {"x": "\x00"})
        assert again.event_id == answer.event_id
        async with event_persister(postgres.dsn) as second:
            same = second.user("alice")
            again = await same.call("PUT", f"/rooms/{room_id}/state/my%00type/k%00%1aey", {"x": "\x00"})
            assert again.event_id == answer.event_id
            assert (await same.call("PUT", "/rooms/!a%00b:example.org/send/m/1", {})).status == 400
            assert (await same.redact(room_id, EventId("$a\x00b"))).status == 404


async def test_send_completes_when_its_client_disconnects(postgres: TestDatabase) -> None:
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        room_id = await alice.create_room()
        task = asyncio.create_task(alice.send(room_id, "hello", "x1"))
        while persister.foundation.writer.statements <= 1:  # noqa: ASYNC110 - nothing tells of a statement's begin
            await asyncio.sleep(0)
        task.cancel()
        assert (await alice.send(room_id, "hello", "x1")).status == 200
        assert await _check_chain(persister, room_id) == ["hello"]


_OUTAGE = """
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION 'could not extend file: no space left' USING ERRCODE = '{}'; END $$;
    CREATE TRIGGER fails BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION fail()
"""


@pytest.mark.parametrize("sqlstate", ["53100", "53200", "57000", "58030", "XX000", "XX001"])
async def test_outage_of_the_database_asks_the_client_to_try_again(postgres: TestDatabase, sqlstate: str) -> None:
    """A full disk is not a wrong request: all sends get 503 with Retry-After, and the rooms work again afterwards."""
    async with event_persister(postgres.dsn) as persister:
        alice = persister.user("alice")
        rooms = [await alice.create_room() for _ in range(3)]
        await persister.foundation.database.execute(_OUTAGE.format(sqlstate))
        before = persister.foundation.writer.statements
        answers = await asyncio.gather(*(alice.send(rooms[n % 3], f"lost {n}") for n in range(30)))
        assert {answer.status for answer in answers} == {503}
        assert persister.foundation.writer.statements - before <= 4, "nothing is halved: no event is to blame"
        await persister.foundation.database.execute("DROP TRIGGER fails ON events")
        answers = await asyncio.gather(*(alice.send(rooms[n % 3], f"kept {n}") for n in range(9)))
        assert {answer.status for answer in answers} == {200}
        for n, room_id in enumerate(rooms):
            assert await _check_chain(persister, room_id) == [f"kept {m}" for m in range(n, 9, 3)]
