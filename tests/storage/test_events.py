"""The statement that stores events."""

import asyncpg
import pytest

from shared.core.errors import Fenced
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.pool import Database, connector
from shared.storage.events.batch import (
    AliasToStore,
    ChangeToStore,
    EventBatch,
    MembershipToStore,
    RedactionToStore,
    RoomToStore,
    TransactionToStore,
)
from shared.storage.events.commit import StatementRefused, commit_events
from shared.storage.events.stored_events import get_event_by_id, get_events
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import event, writing

#: The tables that the statement writes.
_TABLES = (
    "events",
    "forward_extremities",
    "client_transactions",
    "current_state",
    "state_changes",
    "memberships",
    "rooms",
    "room_aliases",
)


async def count_rows(conn: asyncpg.Connection) -> dict[str, int]:
    return {table: await conn.fetchval(f"SELECT count(*) FROM {table}") for table in _TABLES}


def full_batch() -> EventBatch:
    member = "m.room.member"
    return EventBatch(
        events=[
            event(1, 10, 1, "m.room.create", state_key=""),
            event(1, 11, 2, member, state_key="@a:b"),
            event(1, 12, 3, member, state_key="@a:b", replaces_nid=11),
            event(1, 13, 4),
        ],
        extremities={1: [13]},
        transactions=[TransactionToStore(1, b"key", EventId("$13"), 5)],
        changes=[
            ChangeToStore(10, 1, "m.room.create", "", 10, None),
            ChangeToStore(11, 2, member, "@a:b", 11, None),
            ChangeToStore(12, 3, member, "@a:b", 12, 11),
        ],
        memberships=[
            MembershipToStore(11, UserId("@a:b"), "join", 11, UserId("@a:b"), True),
            MembershipToStore(12, UserId("@a:b"), "leave", 12, UserId("@a:b"), True),
        ],
        rooms=[RoomToStore(1, RoomId("!r:b"), "12", "@a:b", True, 1)],
        aliases=[AliasToStore("#a:b", 1, "@a:b", 1)],
    )


async def test_positions_ascend_in_the_batch_order(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        # Descending numbers and equal ordinals: the order is that of the batch.
        rooms = [EventBatch(events=[event(900 - n, 900 - n, 1) for n in range(300)])]
        first = (await commit_events(writer.write, rooms[0])).positions
        assert first == list(range(first[0], first[0] + 300))
        stored = await writer.conn.fetch("SELECT event_nid FROM events ORDER BY position")
        assert [row[0] for row in stored] == [900 - n for n in range(300)]
        second = (await commit_events(writer.write, EventBatch(events=[event(5, 5, 1)]))).positions
        assert second[0] == first[-1] + 1


async def test_batch_is_stored_in_all_tables(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        positions = (await commit_events(writer.write, full_batch())).positions
        conn = writer.conn
        assert await count_rows(conn) == {
            "events": 4,
            "forward_extremities": 1,
            "client_transactions": 1,
            "current_state": 2,
            "state_changes": 3,
            "memberships": 1,
            "rooms": 1,
            "room_aliases": 1,
        }
        [member] = await conn.fetch("SELECT membership, event_nid, ordinal, position FROM memberships")
        assert tuple(member) == ("leave", 12, 3, positions[2])
        state = await conn.fetchval("SELECT event_nid FROM current_state WHERE type = 'm.room.member'")
        assert state == 12
        changes = await conn.fetch(
            "SELECT event_nid, prev_nid FROM state_changes WHERE type = 'm.room.member' ORDER BY ordinal"
        )
        assert [tuple(row) for row in changes] == [(11, None), (12, 11)]
        [stored] = await conn.fetch("SELECT * FROM events WHERE event_nid = 13")
        assert (list(stored["prev_nids"]), stored["writer"], stored["status"]) == ([1, 2], writer.lease, 0)
        # The next batch replaces the extremity and redacts the message.
        batch = EventBatch(
            events=[event(1, 14, 5, "m.room.redaction", redacts_nid=13, sender="@a\x00b:c")],
            extremities={1: [14]},
            redacted=[RedactionToStore(1, 13, 14)],
        )
        await commit_events(writer.write, batch)
        assert await conn.fetchval("SELECT redacted_by FROM events WHERE event_nid = 13") == 14
        assert await conn.fetchval("SELECT event_nids FROM forward_extremities") == [14]
        [read] = await get_events(conn, 1, [14, 99])
        assert (read.sender, read.event_id, read.state_key) == ("@a\x00b:c", "$14", None)


async def test_commit_without_a_valid_lease_writes_nothing(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        before = await writer.conn.fetchval("SELECT last_value FROM stream_events")
        for ending in ("UPDATE leases SET revoked = true", "DELETE FROM leases"):
            await writer.conn.execute(ending)
            with pytest.raises(Fenced):
                await commit_events(writer.write, full_batch())
            with pytest.raises(Fenced):
                await commit_events(writer.write, EventBatch(events=[event(1, 10, 1)], extremities={1: [10]}))
            assert not any((await count_rows(writer.conn)).values())
        assert await writer.conn.fetchval("SELECT last_value FROM stream_events") == before


async def test_refused_statement_names_the_constraint_and_writes_nothing(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        await commit_events(writer.write, full_batch())
        before = await count_rows(writer.conn)
        alias = full_batch()
        alias.events = [event(2, 20, 1, "m.room.create", state_key="")]
        alias.memberships, alias.transactions, alias.rooms = (
            [],
            [],
            [RoomToStore(2, RoomId("!s:b"), "12", UserId("@a:b"), True, 1)],
        )
        for batch, constraint in (
            (EventBatch(events=[event(1, 21, 4)]), "events_room_nid_ordinal_key"),
            (EventBatch(events=[event(1, 22, 5, event_id="$13")]), "events_by_id"),
            (
                EventBatch(events=[event(1, 22, 5)], transactions=[TransactionToStore(1, b"key", EventId("$22"), 6)]),
                "client_transactions_pkey",
            ),
            (alias, "room_aliases_pkey"),
        ):
            with pytest.raises(StatementRefused) as refused:
                await commit_events(writer.write, batch)
            assert (refused.value.constraint, refused.value.transient) == (constraint, False)
            assert await count_rows(writer.conn) == before


async def test_refusal_because_of_a_locked_row_is_transient(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        await commit_events(writer.write, full_batch())
        other = await asyncpg.connect(postgres.dsn)
        await writer.conn.execute("SET lock_timeout = '50ms'")
        async with other.transaction():
            await other.execute("SELECT FROM forward_extremities WHERE room_nid = 1 FOR UPDATE")
            with pytest.raises(StatementRefused) as refused:
                await commit_events(writer.write, EventBatch(events=[event(1, 15, 5)], extremities={1: [15]}))
            assert refused.value.transient
        await other.close()


async def test_event_is_found_by_its_id_in_its_own_room_only(postgres: TestDatabase) -> None:
    async with writing(postgres.dsn) as writer:
        await commit_events(writer.write, full_batch())
        database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
        found = await get_event_by_id(database, 1, EventId("$12"))
        assert found is not None and (found.event_nid, found.state_key) == (12, "@a:b")
        assert await get_event_by_id(database, 2, EventId("$12")) is None, "of another room"
        assert await get_event_by_id(database, 1, EventId("$\x00")) is None
        await database.close()
