"""Claims of one-time keys while other transactions lock them. Protocol notes, B6."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shared.core.identifiers import UserId
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
from tests.storage.one_writer import OneConnection, writing

ALICE, DEVICE = UserId("@alice:x"), "D"


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
        max_one_time_bytes=100_000,
        max_stored=1000,
        max_algorithms=10,
    )
    return await writer.write(UPLOAD_KEYS, record)


async def _claim(writer: OneConnection, *devices: str) -> list[bytes]:
    keys = [KeyToClaim(ALICE, device, "a") for device in devices]
    row = await writer.write(CLAIM_KEYS, ClaimKeys(keys=keys, now_ms=2))
    return list(row["jsons"] or ())


@asynccontextmanager
async def _stored_device(dsn: str) -> AsyncIterator[OneConnection]:
    async with writing(dsn) as writer:
        await writer.conn.execute("INSERT INTO users (user_id, kind, created_ms) VALUES ($1, 'user', 1)", ALICE)
        await writer.conn.execute("INSERT INTO devices (user_id, device_id, created_ms) VALUES ($1, 'D', 1)", ALICE)
        yield writer


async def test_locked_key_is_skipped(postgres: TestDatabase) -> None:
    async with _stored_device(postgres.dsn) as writer:
        await _upload(writer, "2")
        await _upload(writer, "1", fallback="f")
        other = await asyncpg.connect(postgres.dsn)
        async with other.transaction():
            await other.execute("SELECT 1 FROM one_time_keys WHERE key_id = '2' FOR UPDATE")
            async with asyncio.timeout(2):
                # The free key, then the fallback key, and nothing for an unknown device.
                assert await _claim(writer, DEVICE, "NONE") == [b"1"]
                assert await _claim(writer, DEVICE) == [b"spare"]
        assert await _claim(writer, DEVICE) == [b"2"]
        database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=1)
        counts = await get_key_counts(database, ALICE, DEVICE)
        await database.close()
        assert (counts.one_time, counts.unused_fallback) == ({"signed_curve25519": 0}, [])
        # Claimed keys keep their id and hash, without the content.
        assert await writer.conn.fetchval("SELECT count(*) FROM one_time_keys WHERE json IS NULL AND hash = 'h'") == 2
        await other.close()


async def test_keys_are_claimed_in_the_order_of_their_uploads(postgres: TestDatabase) -> None:
    """The ids, and the places in the table, are in the opposite order."""
    async with _stored_device(postgres.dsn) as writer:
        for key_id in ("3", "2", "1"):
            await _upload(writer, key_id)
        await writer.conn.execute("UPDATE one_time_keys SET hash = 'h' WHERE key_id = '3'")  # now last in the table
        await writer.conn.execute("SET enable_indexscan = off; SET enable_bitmapscan = off")
        assert [await _claim(writer, DEVICE) for _ in range(4)] == [[b"3"], [b"2"], [b"1"], []]


async def test_upload_for_a_deleted_device_stores_nothing(postgres: TestDatabase) -> None:
    async with _stored_device(postgres.dsn) as writer:
        await writer.conn.execute("DELETE FROM devices")
        row = await _upload(writer, "1", fallback="f")
        assert row["devices"] == 0
        for table in ("one_time_keys", "fallback_keys", "one_time_key_changes"):
            assert await writer.conn.fetchval(f"SELECT count(*) FROM {table}") == 0
