"""Claiming one-time keys while others hold them, on a real PostgreSQL. Protocol notes, B6."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shared.storage.encryption.device_keys import (
    CLAIM_KEYS,
    UPLOAD_KEYS,
    ClaimKeys,
    KeyToClaim,
    KeyToUpload,
    UploadKeys,
    get_key_counts,
)
from shared.storage.engine.pool import Database, connector
from tests.fix_servers import TestDatabase
from tests.storage.test_events import OneConnection, writing

ALICE, DEVICE = "@alice:x", "D"


async def _upload(writer: OneConnection, *key_ids: str, fallback: str | None = None) -> Any:
    record = UploadKeys(
        user_id=ALICE,
        device_id=DEVICE,
        identity=None,
        known_identity=None,
        now_ms=1,
        one_time=[KeyToUpload("a", name, b"h", name.encode()) for name in key_ids],
        fallback=[KeyToUpload("a", fallback, b"h", b"spare")] if fallback else [],
        max_one_time=100,
    )
    return await writer.write(UPLOAD_KEYS, record)


async def _claim(writer: OneConnection, *devices: str) -> list[bytes]:
    keys = [KeyToClaim(ALICE, device, "a") for device in devices]
    row = await writer.write(CLAIM_KEYS, ClaimKeys(keys=keys, now_ms=2))
    return list(row["jsons"] or ())


@asynccontextmanager
async def _stored_device(dsn: str) -> AsyncIterator[OneConnection]:
    async with writing(dsn) as writer:
        await writer.conn.execute("INSERT INTO devices (user_id, device_id, created_ms) VALUES ($1, 'D', 1)", ALICE)
        yield writer


async def test_a_key_that_somebody_holds_is_passed_over(postgres: TestDatabase) -> None:
    async with _stored_device(postgres.dsn) as writer:
        await _upload(writer, "2")
        await _upload(writer, "1", fallback="f")
        other = await asyncpg.connect(postgres.dsn)
        async with other.transaction():
            await other.execute("SELECT 1 FROM one_time_keys WHERE key_id = '2' FOR UPDATE")
            async with asyncio.timeout(2):
                # One after another: the free key, then the fallback key, and nothing for a device that isn't there.
                assert await _claim(writer, DEVICE, "NONE") == [b"1"]
                assert await _claim(writer, DEVICE) == [b"spare"]
        assert await _claim(writer, DEVICE) == [b"2"]
        database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
        counts = await get_key_counts(database, ALICE, DEVICE)
        await database.close()
        assert (counts.one_time, counts.unused_fallback) == ({"signed_curve25519": 0}, [])
        # What is claimed keeps its id and hash, and loses its content.
        assert await writer.conn.fetchval("SELECT count(*) FROM one_time_keys WHERE json IS NULL AND hash = 'h'") == 2
        await other.close()


async def test_keys_go_in_the_order_of_their_uploads(postgres: TestDatabase) -> None:
    """Names, and places in the table, say the opposite."""
    async with _stored_device(postgres.dsn) as writer:
        for key_id in ("3", "2", "1"):
            await _upload(writer, key_id)
        await writer.conn.execute("UPDATE one_time_keys SET hash = 'h' WHERE key_id = '3'")  # now last in the table
        await writer.conn.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
        assert [await _claim(writer, DEVICE) for _ in range(4)] == [[b"3"], [b"2"], [b"1"], []]


async def test_nothing_is_uploaded_for_a_device_that_has_gone(postgres: TestDatabase) -> None:
    async with _stored_device(postgres.dsn) as writer:
        await writer.conn.execute("DELETE FROM devices")
        row = await _upload(writer, "1", fallback="f")
        assert row["devices"] == 0
        for table in ("one_time_keys", "fallback_keys", "one_time_key_changes"):
            assert await writer.conn.fetchval(f"SELECT count(*) FROM {table}") == 0
