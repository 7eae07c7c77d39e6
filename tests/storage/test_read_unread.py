"""Unread counts, read from the totals, against a model that evaluates every event for every member."""

from random import Random

import asyncpg
import pytest

from shared.core.identifiers import UserId
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import Count
from shared.storage.push.unread import get_highlights_before, get_unread, get_unread_of_rooms
from tests.fix_servers import TestDatabase
from tests.unread_model import GROUPS, THREADS, USERS, RoomModel

_JOIN, _LEAVE = b'{"content":{"membership":"join"}}', b'{"content":{"membership":"leave"}}'


async def store(conn: asyncpg.Connection, room: int, model: RoomModel) -> None:
    """Store the room as the persister does, with its receipts."""
    joins = {(user, ordinal) for user, ordinals in model.joins.items() for ordinal in ordinals}
    for event, row in zip(model.events, model.rows, strict=True):
        await conn.execute(
            "INSERT INTO events (room_nid, event_nid, event_id, writer, position, ordinal, depth, type, sender,"
            " origin_server_ts, prev_nids, auth_nids, json)"
            " VALUES ($1, $2, $3, 1, $2, $2, 1, 't', $4, 1, '{}', '{}', $5)",
            room,
            event.ordinal,
            f"${room}-{event.ordinal}",
            event.sender,
            _JOIN if (event.sender, event.ordinal) in joins else _LEAVE,
        )
        counters = [(room, group, event.thread_id, event.ordinal, n, h) for group, n, h in row.push]
        await conn.executemany("INSERT INTO push_counters VALUES ($1, $2, $3, $4, $5, $6)", counters)
        users = [(room, user, event.ordinal, event.thread_id, n, h) for user, n, h in row.push_users]
        table = "push_exceptions (room_nid, user_id, ordinal, thread_id, notifies, highlights)"
        by = []
        if event.redacted_at is not None:
            table = "push_redacted_users (room_nid, user_id, ordinal, thread_id, notifies, highlights, by_ordinal)"
            by = [event.redacted_at]
        places = ", ".join(f"${number}" for number in range(1, 7 + len(by)))
        await conn.executemany(f"INSERT INTO {table} VALUES ({places})", [(*one, *by) for one in users])
        for ordinal, thread_id, groups, _ in row.push_redacted:
            taken = [(room, group, ordinal, thread_id, n, h, event.ordinal) for group, n, h in groups]
            await conn.executemany("INSERT INTO push_redacted VALUES ($1, $2, $3, $4, $5, $6, $7)", taken)
    for user in USERS:
        moves = [(room, user, *move) for move in model.groups[user][1:]]
        await conn.executemany("INSERT INTO push_members VALUES ($1, $2, $3, $4)", moves)
        for thread_id in THREADS:
            if own := model.read_by_sending(user, thread_id):
                await conn.execute("INSERT INTO push_own VALUES ($1, $2, $3, $4)", room, user, thread_id, own[-1])
        await store_receipts(conn, room, user, model)
        await store_membership(conn, room, user, model)


async def store_receipts(conn: asyncpg.Connection, room: int, user: str, model: RoomModel) -> None:
    newest: dict[tuple[str, str], int] = {}
    for number, (thread_id, ordinal) in enumerate(model.receipts[user]):
        kind = ("m.read", "m.read.private")[number % 2]
        key = (kind, "" if thread_id is None else thread_id or "main")
        newest[key] = max(ordinal, newest.get(key, 0))
    sql = "INSERT INTO receipts VALUES ($1, $2, $3, $4, '$e', $5, 1, 1, $6)"
    receipts = [(room, user, *key, ordinal, position) for position, (key, ordinal) in enumerate(newest.items())]
    await conn.executemany(sql, receipts)


async def store_membership(conn: asyncpg.Connection, room: int, user: str, model: RoomModel) -> None:
    """Store each join after a leave (event 0) and, if the next ordinal is free, before a change of the profile."""
    sql = "INSERT INTO state_changes VALUES ($1, 'm.room.member', $2, $3, $4, $5, 1, 1)"
    for join in model.joins[user]:
        for ordinal, now, before in ((join, join, 0), (join + 1, join, join)):
            if ordinal <= model.last and ordinal not in model.joins[user][model.joins[user].index(join) + 1 :]:
                await conn.execute(sql, room, user, ordinal, now, before)


@pytest.mark.parametrize("seed", range(4))
async def test_unread_counts_equal_those_of_the_model(postgres_module: TestDatabase, seed: int) -> None:
    random = Random(seed)
    models = {}
    for room in range(seed * 10, seed * 10 + 8):
        models[room] = model = RoomModel(random)
        for _ in range(random.randint(5, 60)):
            model.act()
    conn = await asyncpg.connect(postgres_module.dsn)
    for room, model in models.items():
        await store(conn, room, model)
    for user in USERS:
        for room, model in models.items():
            lowest = max((at for thread in THREADS for at in model.read_by_sending(user, thread)), default=1)
            for end in {model.last, random.randint(lowest, model.last)}:
                found = await get_unread(conn, user, room, end)
                wanted = model.found(user, end)
                assert (found.at, found.floor) == (end, wanted.floor)
                assert (found.group, found.group_from) == (wanted.group, wanted.group_from)
                assert dict(found.marks) == dict(wanted.marks)
                assert dict(found.counts) == dict(wanted.counts)
                for thread_id, highlights in found.highlights.items():
                    assert highlights == model.highlights(found.group, thread_id, end)
        together = await get_unread_of_rooms(conn, user, list(models), Vector(1, 1000, {}))
        assert {room: dict(found.counts) for room, found in together.items()} == {
            room: dict(model.found(user, model.last).counts) for room, model in models.items()
        }
        capped = await get_unread_of_rooms(conn, user, list(models), Vector(1, 0, {1: 3}))
        assert {found.at for found in capped.values()} == {3}
    room, model = next(iter(models.items()))
    for group in GROUPS:
        before = await get_highlights_before(conn, room, group, "$t1", model.last)
        assert before == model.highlights(group, "$t1", model.last - 1)
    await conn.close()


async def test_cost_of_a_read_does_not_grow_with_the_unread_events(postgres: TestDatabase) -> None:
    """The cost is the number of blocks that PostgreSQL touches."""
    conn = await asyncpg.connect(postgres.dsn)
    blocks = {}
    for room, events in ((1, 1_000), (2, 100_000)):
        counters = "INSERT INTO push_counters SELECT $1, 0, '', n, n, n / 10 FROM generate_series(1, $2::bigint) n"
        await conn.execute(counters, room, events)
    await conn.execute("VACUUM ANALYZE push_counters")
    for room, events in ((1, 1_000), (2, 100_000)):
        assert (await get_unread(conn, UserId("@a:x"), room, events)).counts == {"": Count(events, events // 10)}
        reads = "SELECT heap_blks_hit + idx_blks_hit FROM pg_statio_user_tables WHERE relname = 'push_counters'"
        await conn.execute("SELECT pg_stat_force_next_flush()")
        before = await conn.fetchval(reads)
        await get_unread(conn, UserId("@a:x"), room, events)
        await conn.execute("SELECT pg_stat_force_next_flush()")
        blocks[room] = await conn.fetchval(reads) - before
    await conn.close()
    assert 0 < blocks[2] <= blocks[1] + 6, blocks
