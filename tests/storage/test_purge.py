"""Purge of history: the deleted rows, the rows that stay, and the states of the remaining events."""

import inspect
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest

from shared.core.event_auth import selection
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.pool import Database, connector
from shared.storage.events.batch import EventBatch
from shared.storage.events.commit import commit_events
from shared.storage.events.stored_events import get_event_by_id
from shared.storage.removal.purge import (
    get_ordinal_of_time,
    get_purge_progress,
    get_rooms_to_purge,
    purge_batches,
    start_purge,
    start_retention,
)
from shared.storage.removal.purge_statements import AUTH_TYPES, RETIRED
from tests.fix_servers import TestDatabase
from tests.storage.one_writer import OneConnection, event, writing
from tests.storage.rooms_to_remove import RandomRoom, dump, states

_SIZE = 120


async def purge(writer: OneConnection, room_nid: int, before: int, *, rows: int = 500, settle_s: float = 0) -> int:
    """Purge without pauses. Return the number of deleted rows."""
    await start_purge(writer.write, room_nid, before, keep_events=1)
    return sum([deleted async for deleted in purge_batches(writer.write, room_nid, rows=rows, settle_s=settle_s)])


async def counted_above(conn: asyncpg.Connection, room_nid: int, mark: int) -> dict[str, Any]:
    """Return the counts of the events above an ordinal: by group and thread, less redactions, and for single users."""
    totals = """
        SELECT DISTINCT ON (group_id, thread_id) group_id || ' ' || thread_id AS key, notifies, highlights
        FROM push_counters WHERE room_nid = $1 AND ordinal <= $2 ORDER BY group_id, thread_id, ordinal DESC"""
    before, now = [{k: (n, h) for k, n, h in await conn.fetch(totals, room_nid, at)} for at in (mark, 10**9)]
    counts = {key: (n - before.get(key, (0, 0))[0], h - before.get(key, (0, 0))[1]) for key, (n, h) in now.items()}
    others = []
    for table, key in (("push_exceptions", "user_id"), ("push_redacted", "group_id::text")):
        sums = f"""SELECT {key} AS key, thread_id, sum(notifies), sum(highlights) FROM {table}
                   WHERE room_nid = $1 AND ordinal > $2 GROUP BY 1, 2 ORDER BY 1, 2"""
        others.append([tuple(row) for row in await conn.fetch(sums, room_nid, mark)])
    return {"groups": {key: count for key, count in counts.items() if count != (0, 0)}, "others": others}


async def check_remaining(conn: asyncpg.Connection, room_nid: int) -> None:
    """Check that all rows that a remaining row needs are there, and no retired event without a use."""
    rows = {row["event_nid"]: row for row in await conn.fetch("SELECT * FROM events WHERE room_nid = $1", room_nid)}
    needed: set[int] = set()
    for row in rows.values():
        assert set(row["auth_nids"]) <= rows.keys(), "an auth event is gone"
        assert row["redacted_by"] is None or row["redacted_by"] in rows, "a redaction that applies is gone"
        if row["redacts_nid"] in rows:
            needed.add(row["event_nid"])
    room = await conn.fetchrow("SELECT * FROM rooms WHERE room_nid = $1", room_nid)
    assert room is not None
    heads = await conn.fetchval("SELECT event_nids FROM forward_extremities WHERE room_nid = $1", room_nid)
    state = {row[0] for row in await conn.fetch("SELECT event_nid FROM current_state WHERE room_nid = $1", room_nid)}
    for row in await conn.fetch("SELECT added || removed FROM state_snapshots WHERE room_nid = $1", room_nid):
        state.update(row[0])
    state |= {row[0] for row in await conn.fetch("SELECT event_nid FROM memberships WHERE room_nid = $1", room_nid)}
    for at, nid, prev in await conn.fetch(
        "SELECT ordinal, event_nid, prev_nid FROM state_changes WHERE room_nid = $1", room_nid
    ):
        state |= {nid} - {None}
        if at >= room["compacted_to"]:
            state |= {prev} - {None}
    assert state <= rows.keys(), "a state event is gone"
    assert set(heads) <= rows.keys()
    awaiting = {
        r[0] for r in await conn.fetch("SELECT redaction_nid FROM awaited_redactions WHERE room_nid = $1", room_nid)
    }
    assert awaiting and awaiting <= rows.keys(), "a redaction is gone whose event may still arrive"
    needed |= state | awaiting
    for nid, row in rows.items():
        if row["status"] == RETIRED and row["type"] not in AUTH_TYPES:
            assert nid in needed, f"{row['type']} stays without a use"
        if row["status"] == 0 and row["ordinal"] is not None and row["ordinal"] < room["first_ordinal"]:
            assert nid in heads and row["ordinal"] in room["spared"]
        assert row["anchor"] is None or row["anchor"] > room["first_ordinal"]
    doubles = """
        SELECT type, state_key FROM state_changes WHERE room_nid = $1 AND ordinal < $2
        GROUP BY type, state_key HAVING count(*) > 1"""
    assert not await conn.fetch(doubles, room_nid, room["compacted_to"])


@pytest.mark.parametrize("seed", range(6))
async def test_remaining_events_keep_their_states_and_counts(postgres: TestDatabase, seed: int) -> None:
    async with writing(postgres.dsn) as writer:
        conn = writer.conn
        rooms = [RandomRoom(nid, nid * 10_000, seed, _SIZE) for nid in (1, 2)]
        for room in rooms:
            await room.store(writer)
        heads = await conn.fetchval("SELECT event_nids FROM forward_extremities WHERE room_nid = 1")
        for before in (15, 60, 61, 100):
            # Forward extremities keep their states, however old they are.
            remaining = f"(ordinal >= {before} OR event_nid = ANY('{{{','.join(map(str, heads))}}}'))"
            former = await states(conn, 1, remaining)
            rows = "SELECT e::text FROM events e WHERE room_nid = 1 AND ordinal >= $1 ORDER BY ordinal"
            former_rows = await conn.fetch(rows, before)
            former_counts = [await counted_above(conn, 1, max(mark, before - 1)) for mark in range(0, _SIZE + 2, 7)]
            await purge(writer, 1, before)
            counts = [await counted_above(conn, 1, mark) for mark in range(0, _SIZE + 2, 7)]
            assert counts == former_counts, "the purge changed unread counts"
            assert await states(conn, 1, remaining) == former
            assert await conn.fetch(rows, before) == former_rows
            await check_remaining(conn, 1)
            progress = await get_purge_progress(conn, 1)
            assert progress is not None
            assert (progress.first_ordinal, progress.purge_to, progress.last_ordinal) == (before, None, _SIZE + 2)
            after = await dump(conn, 1)
            assert await purge(writer, 1, before) == 0
            assert await dump(conn, 1) == after, "a second purge changed rows"
        assert not await conn.fetchval(
            "SELECT count(*) FROM events WHERE room_nid = 1 AND status IN (1, 2) AND origin_server_ts < 100000"
        )
        assert await conn.fetchval("SELECT count(*) FROM gaps WHERE room_nid = 1 AND anchor <= 100") == 0
        # One purge to the last of these ordinals, in tiny batches, has the same result.
        await purge(writer, 2, 100, rows=3)
        left = "SELECT event_nid % 10000, status, ordinal FROM events WHERE room_nid = $1 ORDER BY event_nid"
        assert await conn.fetch(left, 1) == await conn.fetch(left, 2)


class Broken(Exception):
    pass


@pytest.mark.parametrize("seed", range(2))
async def test_purge_resumes_after_a_crash_at_any_statement(postgres: TestDatabase, seed: int) -> None:
    async with writing(postgres.dsn) as writer:
        conn = writer.conn
        for nid in (1, 2):
            await RandomRoom(nid, nid * 10_000, seed, _SIZE).store(writer)
        former = await states(conn, 1, "ordinal >= 90")
        await start_purge(writer.write, 1, 90, keep_events=1)
        for after in range(1, 60, 2):
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
                async for _ in purge_batches(breaks, 1, rows=5, settle_s=0):
                    assert await states(conn, 1, "ordinal >= 90") == former
            except Broken:
                continue
            break
        assert await get_rooms_to_purge(conn, 0, 10) == []
        await check_remaining(conn, 1)
        await purge(writer, 2, 90)
        left = "SELECT event_nid % 10000, status, ordinal FROM events WHERE room_nid = $1 ORDER BY event_nid"
        assert await conn.fetch(left, 1) == await conn.fetch(left, 2)


@asynccontextmanager
async def one_room(dsn: str, seed: int = 1) -> AsyncIterator[tuple[OneConnection, RandomRoom]]:
    async with writing(dsn) as writer:
        room = RandomRoom(1, 10_000, seed, _SIZE)
        await room.store(writer)
        yield writer, room


async def test_old_forward_extremity_is_purged_once_an_event_follows_it(postgres: TestDatabase) -> None:
    async with one_room(postgres.dsn) as (writer, _):
        conn = writer.conn
        await purge(writer, 1, 100)
        [spared] = await conn.fetchval("SELECT spared FROM rooms")
        line = "SELECT min(ordinal) FROM state_changes WHERE room_nid = 1 AND type = 'm.room.topic'"
        assert spared < 100 and await conn.fetchval("SELECT compacted_to FROM rooms") <= spared
        nid = await conn.fetchval("SELECT max(event_nid) + 1 FROM events")
        await commit_events(writer.write, EventBatch(events=[event(1, nid, _SIZE + 3)], extremities={1: [nid]}))
        before = await conn.fetchval(line)
        await purge(writer, 1, 101)
        assert await conn.fetchval("SELECT spared FROM rooms") == []
        assert await conn.fetchval("SELECT count(*) FROM events WHERE ordinal = $1 AND status = 0", spared) == 0
        assert await conn.fetchval(line) >= before
        await check_remaining(conn, 1)


async def test_latest_events_stay(postgres: TestDatabase) -> None:
    async with one_room(postgres.dsn) as (writer, _):
        last = _SIZE + 2
        assert await start_purge(writer.write, 99, 50) is None
        assert await start_purge(writer.write, 1, 10_000, keep_events=30) == last - 29
        assert await start_purge(writer.write, 1, 10_000, keep_events=0) == last
        async for _ in purge_batches(writer.write, 1, settle_s=0):
            pass
        shown = "SELECT count(*) FROM events WHERE status = 0 AND ordinal >= $1"
        assert await writer.conn.fetchval(shown, last) == 1
        assert await start_purge(writer.write, 1, 10_000) is None
        await check_remaining(writer.conn, 1)


async def test_old_state_is_deleted_only_after_a_while(postgres: TestDatabase) -> None:
    """A process that read the state of an old event has that long to store an event that builds on it."""
    async with one_room(postgres.dsn) as (writer, _):
        conn = writer.conn
        changes = "SELECT count(*) FROM state_changes"
        before = await conn.fetchval(changes)
        await purge(writer, 1, 100, settle_s=600)
        assert await conn.fetchval(changes) == before
        assert await conn.fetchval("SELECT count(*) FROM events WHERE status = 4 AND type = 'm.room.topic'") > 1
        assert await get_rooms_to_purge(conn, 0, 10) == [1]
        await conn.execute("UPDATE rooms SET retired_at = retired_at - interval '601 s'")
        async for _ in purge_batches(writer.write, 1, settle_s=600):
            pass
        assert await conn.fetchval(changes) < before
        assert await get_rooms_to_purge(conn, 0, 10) == []
        await check_remaining(conn, 1)


async def test_purge_and_writers_do_not_wait_for_each_other(postgres: TestDatabase) -> None:
    """Locked rows are left for the next purge. A writer commits while a batch of a purge is open."""
    async with one_room(postgres.dsn) as (writer, room):
        conn = writer.conn
        await conn.execute("SET lock_timeout = '200ms'")
        other = await asyncpg.connect(postgres.dsn)
        async with other.transaction():
            await other.execute("UPDATE events SET redacted_by = 1 WHERE room_nid = 1 AND ordinal = 50")
            await purge(writer, 1, 100)
            assert await conn.fetchval("SELECT first_ordinal FROM rooms") == 50
        async for _ in purge_batches(writer.write, 1, settle_s=0):
            pass
        assert await conn.fetchval("SELECT first_ordinal FROM rooms") == 100
        await other.execute("SET lock_timeout = '200ms'")
        async with conn.transaction():
            await purge(writer, 1, 110)
            nid = await conn.fetchval("SELECT max(event_nid) + 1 FROM events")
            heads = [*room.batch.extremities[1], nid]
            batch = EventBatch(events=[event(1, nid, _SIZE + 3)], extremities={1: heads})
            await commit_events(OneConnection(other, writer.lease).write, batch)
        await check_remaining(conn, 1)
        await other.close()


async def test_purged_event_that_stays_as_state_is_found_by_its_id(postgres: TestDatabase) -> None:
    async with one_room(postgres.dsn) as (writer, _):
        create = await writer.conn.fetchval("SELECT event_id FROM events WHERE ordinal = 1")
        message = await writer.conn.fetchval("SELECT event_id FROM events WHERE type = 'm.room.message' LIMIT 1")
        await purge(writer, 1, 100)
        database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
        found = await get_event_by_id(database, 1, create)
        assert found is not None and found.event_id == create
        assert await get_event_by_id(database, 1, message) is None
        await database.close()


async def test_retention_purges_rooms_by_the_age_of_their_events(postgres: TestDatabase) -> None:
    async with one_room(postgres.dsn) as (writer, _):
        conn = writer.conn
        second = RandomRoom(2, 20_000, 2, _SIZE)
        await second.store(writer)
        # Event n is from 1000 n ms. One is from the far future, which must not keep all events before it.
        await conn.execute("UPDATE events SET origin_server_ts = 9000000 WHERE ordinal = 30")
        now = 200_000
        assert await get_ordinal_of_time(conn, 1, 40_500, now) == 41
        assert await get_ordinal_of_time(conn, 1, 500_000, now) == _SIZE + 3
        assert await get_ordinal_of_time(conn, 99, 1, now) == 1
        assert await start_retention(writer.write, {1: 40_500, 2: 60_000, 3: 1}, now, keep_events=20) == [1, 2]
        assert await start_retention(writer.write, {1: 50_500}, now) == [], "a purge is under way"
        assert await get_rooms_to_purge(conn, 0, 1) == [1] and await get_rooms_to_purge(conn, 1, 5) == [2]
        for room_nid, first in ((1, 41), (2, 60)):
            async for _ in purge_batches(writer.write, room_nid, settle_s=0):
                pass
            assert await conn.fetchval("SELECT first_ordinal FROM rooms WHERE room_nid = $1", room_nid) == first
            await check_remaining(conn, room_nid)
        # An old event after a younger one stays as long as that one.
        await conn.execute("UPDATE events SET origin_server_ts = 1 WHERE ordinal = 45")
        assert await start_retention(writer.write, {1: 41_000}, now, keep_events=20) == []
        assert await start_retention(writer.write, {1: 300_000}, now, keep_events=20) == [1]
        assert await conn.fetchval("SELECT purge_to FROM rooms WHERE room_nid = 1") == _SIZE + 2 - 19


async def test_purge_by_a_fenced_process_does_nothing(postgres: TestDatabase) -> None:
    async with one_room(postgres.dsn) as (writer, _):
        await start_purge(writer.write, 1, 100, keep_events=1)
        before = await dump(writer.conn, 1)
        await writer.conn.execute("UPDATE leases SET revoked = true")

        async def write_without_a_check(
            statement: FencedStatement[Any], record: Any, *, streams: Sequence[str] = ()
        ) -> asyncpg.Record:
            row = await writer.conn.fetchrow(statement.sql, writer.lease, *statement.values(record))
            assert row is not None and row["fence"] == 0
            return row

        assert sum([deleted async for deleted in purge_batches(write_without_a_check, 1, settle_s=0)]) == 0
        assert await dump(writer.conn, 1) == before


def test_auth_types_are_those_that_the_selection_names() -> None:
    named = set(re.findall(r'"(m\.room\.\w+)"', inspect.getsource(selection)))
    assert named == set(AUTH_TYPES)


async def test_index_of_retired_events_names_the_auth_types(postgres: TestDatabase) -> None:
    conn = await asyncpg.connect(postgres.dsn)
    index = await conn.fetchval("SELECT indexdef FROM pg_indexes WHERE indexname = 'events_retired'")
    assert all(f"'{kind}'" in index for kind in AUTH_TYPES)
    await conn.close()
