"""Deletion of a room: it disappears at once, then its rows are deleted in batches, and none is left."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from shared.core.identifiers import RoomId
from shared.storage.engine.fenced import FencedStatement
from shared.storage.events.batch import EventBatch, RoomToStore
from shared.storage.events.commit import StatementRefused, commit_events
from shared.storage.events.timeline import get_ordinal_at, get_room
from shared.storage.removal.delete_room import (
    ROOM_TABLES,
    RoomBeingDeleted,
    RoomHasMembers,
    delete_room_batches,
    get_rooms_being_deleted,
    mark_room_deleted,
)
from shared.storage.removal.purge import start_purge
from shared.storage.rooms.aliases import get_room_of_alias
from shared.storage.rooms.for_writer import get_room_end
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import OneConnection, event, writing
from tests.storage.rooms_to_remove import ROOM_ROWS, RandomRoom, dump

_SIZE = 80


@asynccontextmanager
async def two_rooms(dsn: str) -> AsyncIterator[tuple[OneConnection, RandomRoom]]:
    """Store two rooms. The second one must stay unchanged."""
    async with writing(dsn) as writer:
        rooms = [RandomRoom(nid, nid * 10_000, nid, _SIZE) for nid in (1, 2)]
        for room in rooms:
            await room.store(writer)
        other = await dump(writer.conn, 2)
        yield writer, rooms[0]
        assert await dump(writer.conn, 2) == other


async def delete(writer: OneConnection, *, rows: int = 500) -> int:
    return sum([deleted async for deleted in delete_room_batches(writer.write, 1, rows=rows)])


async def test_deletion_leaves_no_row(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, room):
        before = await dump(writer.conn, 1)
        assert all(before.values()), "a table has no row to delete"
        assert await delete(writer) == 0, "deleted without a mark"
        assert await dump(writer.conn, 1) == before
        with pytest.raises(RoomHasMembers, match="Make them leave first"):
            await mark_room_deleted(writer.write, room.room_id)
        assert await dump(writer.conn, 1) == before
        assert await mark_room_deleted(writer.write, room.room_id, force=True) == 1
        assert await get_rooms_being_deleted(writer.conn, 9) == [RoomBeingDeleted(1, room.room_id)]
        assert await delete(writer, rows=7) == sum(len(rows) for rows in before.values())
        assert not any((await dump(writer.conn, 1)).values())
        assert await writer.conn.fetchval("SELECT count(*) FROM account_data WHERE room_id = $1", room.room_id) == 0
        assert await get_rooms_being_deleted(writer.conn, 9) == []
        assert await delete(writer) == 0
        await room.store(writer)  # the room can be stored again


async def test_every_table_with_a_room_column_is_emptied(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, _):
        rows = await writer.conn.fetch(
            """SELECT DISTINCT table_name FROM information_schema.columns
               WHERE table_schema = 'public' AND column_name IN ('room_nid', 'room_id')"""
        )
        assert {row[0] for row in rows} == {*ROOM_TABLES, "rooms"} == set(ROOM_ROWS)


async def test_room_without_local_members_needs_no_force(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, room):
        await writer.conn.execute(
            "UPDATE memberships SET membership = 'leave' WHERE room_nid = 1 AND user_id = '@u0:b'"
        )
        await writer.conn.execute("UPDATE memberships SET is_local = false WHERE room_nid = 1 AND user_id <> '@u0:b'")
        assert await mark_room_deleted(writer.write, RoomId("!unknown:b")) is None
        assert await mark_room_deleted(writer.write, RoomId("!\x00:b")) is None
        assert await mark_room_deleted(writer.write, room.room_id) == 1
        assert await mark_room_deleted(writer.write, room.room_id) is None, "already marked"


async def test_marked_room_is_not_found(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, room):
        conn = writer.conn
        last = await conn.fetchval("SELECT max(position) FROM events")
        await mark_room_deleted(writer.write, room.room_id, force=True)
        assert await get_room(conn, room.room_id) is None
        assert await get_room_end(conn, room.room_id) is None
        assert await get_room_of_alias(conn, "#a1:b") != room.room_id  # type: ignore[arg-type]
        assert await start_purge(writer.write, 1, 50) is None
        assert await conn.fetchval("SELECT max(position) FROM events") == last, "the mark is in no stream"
        assert await get_ordinal_at(conn, 1, writer.lease, last, {}) > _SIZE
        # A writer that has the room in memory finds its next ordinal taken.
        nid = await conn.fetchval("SELECT max(event_nid) + 1 FROM events")
        with pytest.raises(StatementRefused) as refused:
            await commit_events(writer.write, EventBatch(events=[event(1, nid, _SIZE + 3)], extremities={1: [nid]}))
        assert refused.value.constraint == "events_room_nid_ordinal_key"
        # The room cannot be created again while events of it are left.
        again = EventBatch(
            events=[event(3, nid, 1, event_id="$10001")], rooms=[RoomToStore(3, room.room_id, "11", "@u:b", False, 1)]
        )
        with pytest.raises(StatementRefused) as refused:
            await commit_events(writer.write, again)
        assert refused.value.constraint == "events_by_id"


async def test_mark_that_races_a_write_fails_and_can_be_retried(postgres: TestDatabase) -> None:
    """Both want the next ordinal. The room is marked completely or not at all."""
    async with two_rooms(postgres.dsn) as (writer, room):
        other = await asyncpg.connect(postgres.dsn)
        await other.execute("SET lock_timeout = '5s'")
        transaction = writer.conn.transaction()
        await transaction.start()
        batch = EventBatch(events=[event(1, 19_999, _SIZE + 3)], extremities={1: [19_999]})
        await commit_events(writer.write, batch)
        marking = asyncio.create_task(
            mark_room_deleted(OneConnection(other, writer.lease).write, room.room_id, force=True)
        )
        await asyncio.sleep(0.1)
        await transaction.commit()
        with pytest.raises(asyncpg.UniqueViolationError):
            await marking
        assert await get_room(writer.conn, room.room_id) is not None
        assert await mark_room_deleted(writer.write, room.room_id, force=True) == 1
        await other.close()


class Broken(Exception):
    pass


async def test_deletion_resumes_after_a_crash_at_any_statement(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, room):
        await mark_room_deleted(writer.write, room.room_id, force=True)
        for after in range(1, 200, 5):
            calls = 0

            async def breaks(
                statement: FencedStatement[Any], record: Any, *, streams: Sequence[str] = (), after: int = after
            ) -> asyncpg.Record:
                nonlocal calls
                calls += 1
                if calls > after:
                    raise Broken
                return await writer.write(statement, record)

            try:
                async for _ in delete_room_batches(breaks, 1, rows=9):
                    pass
            except Broken:
                assert [each.room_nid for each in await get_rooms_being_deleted(writer.conn, 9)] == [1]
                continue
            break
        assert not any((await dump(writer.conn, 1)).values())


async def test_room_with_locked_rows_stays_marked_until_they_are_free(postgres: TestDatabase) -> None:
    async with two_rooms(postgres.dsn) as (writer, room):
        await writer.conn.execute("SET lock_timeout = '200ms'")
        other = await asyncpg.connect(postgres.dsn)
        await mark_room_deleted(writer.write, room.room_id, force=True)
        async with other.transaction():
            await other.execute("SELECT FROM receipts WHERE room_nid = 1 FOR UPDATE")
            await delete(writer)
            assert [each.room_nid for each in await get_rooms_being_deleted(writer.conn, 9)] == [1]
        # An outlier that a writer stored meanwhile.
        await commit_events(writer.write, EventBatch(events=[event(1, 19_999, None, status=3, depth=1)]))  # type: ignore[arg-type]
        assert await delete(writer) == 3
        assert not any((await dump(writer.conn, 1)).values())
        await other.close()
