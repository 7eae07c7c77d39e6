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
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.accounts.session_statements import END_DEVICES, EndDevices
from shared.storage.engine.pool import SESSION_LIMITS, connector
from shared.storage.fleet.leases import insert_lease
from shared.storage.user_data.account_data import SET_ACCOUNT_DATA, SetAccountData
from shared.storage.user_data.receipts import SET_RECEIPT, SetReceipt
from tests.fix_servers import TestDatabase
from tests.rigs.persister import User
from tests.rigs.synchrotron import fleet
from tests.rigs.waiting import until

_WRITERS = 4
_MIN_SAMPLES = 150
_MIN_WRITES = 20
#: Statements that wait for a row, transaction or table of another one. ("extend" is PostgreSQL growing a file.)
_WAITING = """
    SELECT application_name || ': ' || wait_event_type || '/' || wait_event AS what
    FROM pg_stat_activity
    WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event <> 'extend'
      AND pid <> pg_backend_pid()
"""

Write = Callable[[FencedWriter, int], Awaitable[object]]


class _Samples:
    """Samples waits for locks while its block runs. seen: the number of samples of each wait."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self.number = 0
        self.seen = Counter[str]()

    async def __aenter__(self) -> "_Samples":
        self._conn = await asyncpg.connect(self._dsn)
        self._stop = asyncio.Event()
        self._looking = asyncio.create_task(self._look())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await self._looking
        await self._conn.close()

    @property
    def suffice(self) -> bool:
        return self.number >= _MIN_SAMPLES

    async def _look(self) -> None:
        while not self._stop.is_set():
            self.seen.update(row["what"] for row in await self._conn.fetch(_WAITING))
            self.number += 1
            await asyncio.sleep(0.002)


async def _lease(dsn: str, number: int) -> FencedWriter:
    conn = await asyncpg.connect(dsn)
    streams = (RECEIPTS, ACCOUNT_DATA, SESSIONS)
    lease = await insert_lease(
        conn,
        process=f"client_api-{number}",
        type_="client_api",
        host="h",
        pid=1,
        address="127.0.0.1:1",
        version="0",
        sequences={stream.name: stream.sequence for stream in streams},
    )
    await conn.execute(
        "INSERT INTO users (user_id, created_ms) SELECT '@' || n || '-' || $1 || ':x', 0 FROM generate_series(0, 49) n",
        str(number),
    )
    await conn.close()
    settings = (*SESSION_LIMITS, ("application_name", f"skep-writer-{lease}"))
    return FencedWriter(connector(dsn, pgbouncer=False, settings=settings), lease, SeenPositions(), lambda why: None)


async def _write(writer: FencedWriter, number: int, write: Write, samples: _Samples) -> int:
    count = 0
    while count < _MIN_WRITES or not samples.suffice:
        await write(writer, number * 1_000_000 + count)
        count += 1
    return count


async def _measure(dsn: str, write: Write, writers: int = _WRITERS) -> tuple[int, Counter[str]]:
    """Let several writers write. Return the number of statements, and the sampled waits."""
    async with AsyncExitStack() as stack:
        made = []
        for number in range(writers):
            made.append(await _lease(dsn, number))
            stack.push_async_callback(made[-1].close)
        async with _Samples(dsn) as samples:
            counts = await asyncio.gather(*(_write(each, number, write, samples) for number, each in enumerate(made)))
        return sum(counts), samples.seen


def _user(number: int) -> UserId:
    return UserId(f"@{number % 50}-{number // 1_000_000}:x")


def _set_receipt(user_id: UserId, room_nid: int, number: int) -> SetReceipt:
    return SetReceipt(
        room_nid=room_nid,
        user_id=user_id,
        kind="m.read",
        thread_id="",
        event_id=EventId("$e"),
        ordinal=number,
        ts_ms=0,
    )


def _account_data(writer: FencedWriter, number: int) -> Awaitable[object]:
    json = orjson.dumps({"n": number})
    record = SetAccountData(
        user_id=_user(number), room_id=RoomId(""), type="t", json=json, expected=None, max_bytes=1 << 20
    )
    return writer.write(SET_ACCOUNT_DATA, record, streams=(ACCOUNT_DATA.name,))


def _receipt(writer: FencedWriter, number: int) -> Awaitable[object]:
    # All writers use the same few rooms: rows are per (room, user), and never shared lists.
    return writer.write(SET_RECEIPT, _set_receipt(_user(number), number % 3, number), streams=(RECEIPTS.name,))


def _log_out(writer: FencedWriter, number: int) -> Awaitable[object]:
    record = EndDevices(user_id=_user(number), device_ids=["D"], verified_hash=None, now_ms=0)
    return writer.write(END_DEVICES, record, streams=(SESSIONS.name,))


@pytest.mark.parametrize("write", [_account_data, _receipt, _log_out], ids=["account_data", "receipts", "sessions"])
async def test_writers_of_user_streams_do_not_wait_for_each_other(postgres: TestDatabase, write: Write) -> None:
    count, waits = await _measure(postgres.dsn, write)
    assert sum(waits.values()) == 0, (count, waits)


async def test_persisters_do_not_wait_for_each_other(postgres: TestDatabase) -> None:
    """Two persisters send into their own rooms at the same time."""

    async def send(user: User, room_id: RoomId, samples: _Samples) -> None:
        while not samples.suffice:
            assert (await user.send(room_id, "x")).status == 200

    async with fleet(postgres.dsn, persisters=2) as world:
        users = [world.persisters[number % 2].user(f"user{number}") for number in range(8)]
        rooms = [await user.create_room() for user in users]
        async with _Samples(postgres.dsn) as samples:
            await asyncio.gather(*(send(*each, samples) for each in zip(users, rooms, strict=True)))
        assert sum(samples.seen.values()) == 0, samples.seen
        writers = await world.database.fetch("SELECT DISTINCT writer FROM events")
        assert len(writers) == 2


async def test_sampling_sees_waits(postgres: TestDatabase) -> None:
    """All writers write the same key, so they wait for each other."""

    async def same_key(writer: FencedWriter, number: int) -> object:
        record = _set_receipt(UserId("@one:x"), 1, number)
        return await writer.write(SET_RECEIPT, record, streams=(RECEIPTS.name,))

    blocker = await asyncpg.connect(postgres.dsn)
    writer = await _lease(postgres.dsn, 0)
    await same_key(writer, 1)
    transaction = blocker.transaction()
    await transaction.start()
    await blocker.execute("SELECT 1 FROM receipts FOR UPDATE")
    async with _Samples(postgres.dsn) as samples:
        waiting = asyncio.create_task(same_key(writer, 2))
        await until(lambda: sum(samples.seen.values()) > 5)
        await transaction.rollback()
        await waiting
    await writer.close()
    await blocker.close()
