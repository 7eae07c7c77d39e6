"""Leases and the fence on real PostgreSQL: a process without its lease writes nothing."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from replication.streams import ACCOUNT_DATA, STREAMS, Kind, fenced_writer, streams_written_by
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.core.errors import Fenced
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import SESSION_LIMITS, Connection, Database, connector
from shared.storage.engine.statements import NoParameters, parameters
from shared.storage.fleet.leases import (
    FINAL_POSITIONS,
    fence,
    fence_process,
    get_processes,
    get_writers,
    insert_lease,
    is_writing,
    record_heartbeat,
)
from tests.fix_servers import TestDatabase
from tests.rigs.waiting import until
from workers.main.decisions import Judgement


@parameters
class Put:
    """slow_s: the duration of the statement."""

    type: str
    slow_s: float = 0.0


WRITE = fenced_statement(
    "test_write",
    Put,
    {
        "slow": "SELECT pg_sleep(:slow_s) FROM fence",
        "put": """
            INSERT INTO account_data (user_id, room_id, type, json, writer, position)
            SELECT '@a:b', '', :type, ''::bytea, :lease, nextval('stream_account_data')
            FROM fence, slow RETURNING position
        """,
    },
    "(SELECT position FROM put) AS position",
)


async def join(conn: Connection, process: str = "client_api1") -> int:
    return await insert_lease(
        conn,
        process=process,
        type_="client_api",
        host="here",
        pid=os.getpid(),
        address="127.0.0.1:1",
        version="1",
        sequences={s.name: s.sequence for s in streams_written_by("client_api") if s.catch_up},
    )


@asynccontextmanager
async def connected(postgres: TestDatabase) -> AsyncIterator[Connection]:
    conn = await asyncpg.connect(postgres.dsn)
    try:
        yield conn
    finally:
        await conn.close()


def writer_of(postgres: TestDatabase, lease: int, lost: list[str]) -> FencedWriter:
    connect = connector(postgres.dsn, pgbouncer=False, settings=(("application_name", f"skep-writer-{lease}"),))
    return FencedWriter(connect, lease, SeenPositions(), lost.append)


async def test_fenced_writer_writes_nothing(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        lease = await join(conn)
        lost: list[str] = []
        writer = writer_of(postgres, lease, lost)
        row = await writer.write(WRITE, Put(type="kept"), streams=("account_data",))
        assert row["position"] == 1
        await fence(conn, lease)
        with pytest.raises(Fenced):
            await writer.write(WRITE, Put(type="lost"), streams=("account_data",))
        assert lost == ["its lease was revoked"]
        assert [r["type"] for r in await conn.fetch("SELECT type FROM account_data")] == ["kept"]
        final = await conn.fetchval("SELECT final_position FROM writers WHERE stream = 'account_data'")
        assert final == 1
        await writer.close()


async def test_fencing_waits_for_running_statement_and_stores_its_position(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        lease = await join(conn)
        writer = writer_of(postgres, lease, [])
        under_way = asyncio.ensure_future(writer.write(WRITE, Put(type="slow", slow_s=0.4), streams=("account_data",)))
        await until(lambda: is_writing(conn, lease))
        await fence(conn, lease)
        assert under_way.done() or (await under_way)["position"] == 1
        assert await conn.fetchval("SELECT final_position FROM writers WHERE stream = 'account_data'") == 1
        await writer.close()


async def test_fencing_ends_long_statement_after_a_second(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        lease = await join(conn)
        lost: list[str] = []
        writer = writer_of(postgres, lease, lost)
        stuck = asyncio.ensure_future(writer.write(WRITE, Put(type="stuck", slow_s=20.0), streams=("account_data",)))
        await until(lambda: is_writing(conn, lease))
        started = asyncio.get_running_loop().time()
        await fence(conn, lease)
        assert asyncio.get_running_loop().time() - started < 10, "the statement would have taken 20 s"
        with pytest.raises(Fenced):
            await stuck
        assert lost and "unknown" in lost[0]
        assert await conn.fetchval("SELECT count(*) FROM account_data") == 0


async def test_join_waits_for_the_joins_of_other_processes(postgres: TestDatabase) -> None:
    """The processes of a fleet that starts join together, and on a busy machine each takes its time."""
    connect = connector(postgres.dsn, pgbouncer=False, settings=SESSION_LIMITS)
    async with connected(postgres) as other:
        joining = await connect()
        async with other.transaction():
            await other.execute("SELECT FROM counters FOR UPDATE")
            task = asyncio.create_task(join(joining))
            await asyncio.wait([task], timeout=1.5)  # longer than a statement may wait for a row otherwise
            assert not task.done()
        assert await task > 0
        await joining.close()


async def test_lease_numbers_are_never_reused(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        first = await join(conn)
        assert await fence_process(conn, "client_api1") == [first]
        second = await join(conn)
        assert second > first
        assert (await record_heartbeat(conn, first, ready=True, draining=False, positions={})).alive is False
        assert (
            await record_heartbeat(conn, second, ready=True, draining=False, positions={"receipts": 5})
        ).alive is True
        async with Database(connector(postgres.dsn, pgbouncer=False), max_connections=1).snapshot() as snapshot:
            known, writers = await get_writers(snapshot, 0, [])
        assert known == second
        receipts = {w.writer: (w.final, w.reached) for w in writers if w.stream == "receipts"}
        assert receipts == {first: (0, None), second: (None, 5)}


def test_every_stream_with_rows_has_a_final_position() -> None:
    assert set(FINAL_POSITIONS) == {s.name for s in STREAMS.values() if s.kind is not Kind.EPHEMERAL}


async def test_beat_changes_with_each_heartbeat_and_by_nothing_else(postgres: TestDatabase) -> None:
    """The leader judges by it. The database's clock, by which `silent_s` goes, may jump."""
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    async with connected(postgres) as conn:
        lease = await join(conn)
        [joined] = await get_processes(database)
        [unchanged] = await get_processes(database)
        assert unchanged.beat == joined.beat and unchanged.silent_s > joined.silent_s
        beats = {joined.beat}
        for _ in range(3):
            await record_heartbeat(conn, lease, ready=True, draining=False, positions={})
            beats.add((await get_processes(database))[0].beat)
        assert len(beats) == 4
        # As if the clock had jumped an hour ahead since the last heartbeat.
        judgement = Judgement(dead_after_s=5.0)
        judgement.saw(await get_processes(database), 0.0, 0.0)
        await conn.execute("UPDATE heartbeats SET seen_at = seen_at - interval '1 hour'")
        [jumped] = await get_processes(database)
        assert jumped.silent_s > 3600
        judgement.saw([jumped], 0.25, 0.25)
        assert judgement.dead([jumped], lease + 1, lease + 1) == []
    await database.close()


async def test_writer_announces_at_most_its_floor_while_writing(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        lease = await join(conn)
        seen = SeenPositions()
        seen.see(ACCOUNT_DATA.name, 10)
        connect = connector(postgres.dsn, pgbouncer=False)
        writer = FencedWriter(connect, lease, seen, lambda why: None)
        under_way = asyncio.ensure_future(writer.write(WRITE, Put(type="x", slow_s=1.0), streams=("account_data",)))
        await until(lambda: is_writing(conn, lease))
        seen.see(ACCOUNT_DATA.name, 99)  # a row of another writer arrives meanwhile
        assert writer.complete_up_to("account_data") == 10
        await under_way
        assert writer.complete_up_to("account_data") == 99
        await writer.close()


async def test_slow_statement_is_not_taken_for_a_hanging_one(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The checks find it running, and the writer waits for it."""
    monkeypatch.setattr(fenced_writer, "_CHECK_AFTER_S", 0.1)
    monkeypatch.setattr(fenced_writer, "_CHECK_EVERY_S", 0.05)
    looks: list[bool] = []

    async def look(conn: Connection, lease: int) -> bool:
        looks.append(await is_writing(conn, lease))
        return looks[-1]

    monkeypatch.setattr(fenced_writer, "is_writing", look)

    async with connected(postgres) as conn:
        lease = await join(conn)
        assert not await is_writing(conn, lease)
        lost: list[str] = []
        writer = writer_of(postgres, lease, lost)
        row = await writer.write(WRITE, Put(type="slow", slow_s=0.8), streams=("account_data",))
        assert (row["fence"], lost) == (1, [])
        assert len(looks) >= 3 and all(looks)
        await writer.close()


def test_fenced_statement_refuses_part_without_fence() -> None:
    with pytest.raises(ValueError, match="without taking rows from the fence"):
        fenced_statement("test_unfenced", NoParameters, {"put": "INSERT INTO counters VALUES ('x', 1)"})
