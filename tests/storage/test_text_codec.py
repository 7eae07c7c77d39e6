"""The codec for text: U+0000, which PostgreSQL cannot store, round-trips in every kind of text value."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from shared.storage.engine.pool import Connection, connector
from shared.storage.engine.text_codec import escape, unescape
from tests.fix_servers import TestDatabase

ODD = [
    "",
    "plain",
    "\x00",
    "\x1a",
    "\x1a0",
    "\x1a1",
    "a\x00b\x1a0c\x1a1\x1a",
    "\x00\x00",
    'quo"te\\s, {braces}',
    "ü\x00",
]


@pytest.mark.parametrize("text", ODD)
def test_unescape_reverses_escape(text: str) -> None:
    assert b"\x00" not in escape(text)
    assert unescape(escape(text)) == text


@pytest.mark.parametrize("text", ["", "plain", "@a:b", 'quo"te\\s', "0", "1"])
def test_usual_text_is_stored_as_it_is(text: str) -> None:
    assert escape(text) == text.encode()


@asynccontextmanager
async def connected(database: TestDatabase) -> AsyncIterator[Connection]:
    conn = await connector(database.dsn, pgbouncer=False)()
    try:
        yield conn
    finally:
        await conn.close()


async def test_text_round_trips_in_values_arrays_and_rows(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        for text in ODD:
            assert await conn.fetchval("SELECT $1::text", text) == text
            assert await conn.fetchval("SELECT ROW($1::text, 1)", text) == (text, 1)
            assert await conn.fetchval("SELECT ARRAY[ROW($1::text)]", text) == [(text,)]
        assert await conn.fetchval("SELECT $1::text[]", [*ODD, None]) == [*ODD, None]
        assert await conn.fetchval("SELECT array_agg(t) FROM unnest($1::text[]) AS t", ODD) == ODD
        assert [row[0] for row in await conn.fetch("SELECT unnest($1::text[])", ODD)] == ODD
        assert await conn.fetchval("SELECT $1::text[]", []) == []
        assert await conn.fetchval("SELECT $1::text", None) is None


async def test_text_with_nul_finds_its_rows(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        await conn.execute("INSERT INTO erased_users SELECT u, 1 FROM unnest($1::text[]) AS u", ODD)
        assert await conn.fetchval("SELECT count(*) FROM erased_users WHERE user_id = ANY($1::text[])", ODD) == len(ODD)
        assert await conn.fetchval("SELECT user_id FROM erased_users WHERE user_id = $1", "\x1a0") == "\x1a0"


async def test_whole_rows_of_a_table_can_be_read(postgres: TestDatabase) -> None:
    async with connected(postgres) as conn:
        await conn.execute("INSERT INTO filters (user_id, filter_id, hash, json) VALUES ('@a:b', 1, '', '')")
        assert tuple(await conn.fetchval("SELECT f FROM filters f")) == ("@a:b", 1, b"", b"", None)
