"""Several writers of one stream: no statement waits for a lock that another writer holds."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

import asyncpg
import orjson
import pytest

from replication.streams import ACCOUNT_DATA, RECEIPTS, SESSIONS
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.storage.accounts.tokens import END_DEVICES
from shared.storage.engine.pool import SESSION_LIMITS, connector
from shared.storage.fleet.leases import insert_lease
from shared.storage.user_data.account_data import SET_ACCOUNT_DATA
from shared.storage.user_data.receipts import SET_RECEIPT
from tests.fix_servers import TestDatabase
from tests.workers.synchrotron.rig import fleet

_WRITERS = 4
_SECONDS = 1.0
#: A statement that waits for another's row, transaction or table. ("extend" is PostgreSQL making a file longer.)
_WAITING = """
    SELECT application_name || ': ' || wait_event_type || '/' || wait_event AS what
    FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event <> 'extend'
      AND pid <> pg_backend_pid()
"""

Write = Callable[[FencedWriter, int], Awaitable[object]]


async def _sample(dsn: str, stop: asyncio.Event) -> tuple[int, Counter[str]]:
    conn = await asyncpg.connect(dsn)
    samples, waits = 0, Counter[str]()
    while not stop.is_set():
        waits.update(row["what"] for row in await conn.fetch(_WAITING))
        samples += 1
        await asyncio.sleep(0.002)
    await conn.close()
    return samples, waits


async def _lease(dsn: str, number: int) -> FencedWriter:
    conn = await asyncpg.connect(dsn)
    streams = (RECEIPTS, ACCOUNT_DATA, SESSIONS)
    lease = await insert_lease(
        conn, process=f"client_api-{number}", type_="client_api", host="h", pid=1, address="127.0.0.1:1", version="0",
        sequences={stream.name: stream.sequence for stream in streams},
    )  # fmt: skip
    await conn.close()
    settings = (*SESSION_LIMITS, ("application_name", f"skep-writer-{lease}"))
    return FencedWriter(connector(dsn, pgbouncer=False, settings=settings), lease, SeenPositions(), lambda why: None)


async def _write_for(writer: FencedWriter, number: int, write: Write) -> int:
    end = asyncio.get_running_loop().time() + _SECONDS
    count = 0
    while asyncio.get_running_loop().time() < end:
        await write(writer, number * 1_000_000 + count)
        count += 1
    return count


async def _measure(dsn: str, write: Write, writers: int = _WRITERS) -> tuple[int, Counter[str]]:
    """Let several writers write; return how many statements they did, and what was seen to wait."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(writers):
            made.append(await _lease(dsn, number))
            stack.push_async_callback(made[-1].close)
        stop = asyncio.Event()
        sampling = asyncio.create_task(_sample(dsn, stop))
        counts = await asyncio.gather(*(_write_for(each, number, write) for number, each in enumerate(made)))
        stop.set()
        samples, waits = await sampling
        assert samples > 50
        assert min(counts) > 20
        return sum(counts), waits


def _account_data(writer: FencedWriter, number: int) -> Awaitable[object]:
    json = orjson.dumps({"n": number})
    return writer.write(SET_ACCOUNT_DATA, f"@{number % 50}-{number // 1_000_000}:x", "", "t", json, None,
                        streams=(ACCOUNT_DATA.name,))  # fmt: skip


def _receipt(writer: FencedWriter, number: int) -> Awaitable[object]:
    # All writers into the same few rooms: rows are per (room, user), never a list that two would share.
    return writer.write(SET_RECEIPT, number % 3, f"@{number % 50}-{number // 1_000_000}:x", "m.read", "", "$e",
                        number, 0, streams=(RECEIPTS.name,))  # fmt: skip


def _log_out(writer: FencedWriter, number: int) -> Awaitable[object]:
    return writer.write(END_DEVICES, f"@{number % 50}-{number // 1_000_000}:x", ["D"], 0, streams=(SESSIONS.name,))


@pytest.mark.parametrize("write", [_account_data, _receipt, _log_out], ids=["account_data", "receipts", "sessions"])
async def test_user_keyed_writers_do_not_wait_for_each_other(postgres: TestDatabase, write: Write) -> None:
    count, waits = await _measure(postgres.dsn, write)
    assert sum(waits.values()) == 0, (count, waits)


async def test_persisters_do_not_wait_for_each_other(postgres: TestDatabase) -> None:
    """Two persisters send into rooms of their own at the same time, through all that a send does."""

    async def _send(user: object, room_id: str) -> None:
        end = asyncio.get_running_loop().time() + _SECONDS
        while asyncio.get_running_loop().time() < end:
            assert (await user.send(room_id, "x")).status == 200  # type: ignore[attr-defined]

    async with fleet(postgres.dsn, persisters=2) as world:
        users = [world.persisters[number % 2].user(f"user{number}") for number in range(8)]
        rooms = [await user.create_room() for user in users]
        stop = asyncio.Event()
        sampling = asyncio.create_task(_sample(postgres.dsn, stop))
        await asyncio.gather(*(_send(user, room_id) for user, room_id in zip(users, rooms, strict=True)))
        stop.set()
        samples, waits = await sampling
        assert samples > 50 and sum(waits.values()) == 0, waits
        writers = await world.database.fetch("SELECT DISTINCT writer FROM events")
        assert len(writers) == 2


async def test_the_sampling_sees_a_wait(postgres: TestDatabase) -> None:
    """The same key from all writers: here they do wait, and it shows."""

    async def same_key(writer: FencedWriter, number: int) -> object:
        return await writer.write(SET_RECEIPT, 1, "@one:x", "m.read", "", "$e", number, 0,
                                  streams=(RECEIPTS.name,))  # fmt: skip

    blocker = await asyncpg.connect(postgres.dsn)
    writer = await _lease(postgres.dsn, 0)
    await same_key(writer, 1)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM receipts FOR UPDATE")
    stop = asyncio.Event()
    sampling = asyncio.create_task(_sample(postgres.dsn, stop))
    waiting = asyncio.create_task(same_key(writer, 2))
    await asyncio.sleep(0.3)
    await transaction.rollback()
    await waiting
    stop.set()
    _, waits = await sampling
    assert sum(waits.values()) > 5
    await writer.close()
    await blocker.close()
