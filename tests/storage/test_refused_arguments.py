"""Statements that asyncpg or PostgreSQL refuses: the connection and the lease stay."""

from typing import Any

import asyncpg
import pytest

from replication.streams.fenced_writer import FencedWriter, SeenPositions
from shared.core.errors import Unavailable
from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import insert_lease
from shared.storage.rooms.memberships import FORGET_ROOM, ForgetRoom
from tests.fix_servers import TestDatabase


async def test_argument_out_of_range_costs_neither_connection_nor_lease(postgres: TestDatabase) -> None:
    connect = connector(postgres.dsn, pgbouncer=False)
    database = Database(connect, max_connections=1)
    with pytest.raises(asyncpg.DataError):
        await database.fetchval("SELECT $1::bigint", 2**70)
    assert await database.fetchval("SELECT 1") == 1
    async with database.connection() as conn:
        lease = await insert_lease(
            conn, process="p", type_="client_api", host="h", pid=1, address="a", version="0", sequences={}
        )
    lost: list[str] = []
    writer = FencedWriter(connect, lease, SeenPositions(), lost.append)
    with pytest.raises(asyncpg.DataError):
        await writer.write(FORGET_ROOM, ForgetRoom(room_nid=2**70, user_id=UserId("@a:b")))
    assert lost == []  # hostile input must not cost a worker its lease
    assert (await writer.write(FORGET_ROOM, ForgetRoom(room_nid=1, user_id=UserId("@a:b"))))["forgotten"] == 0
    await writer.close()
    await database.close()


async def test_statement_timeout_raises_unavailable_and_keeps_the_connection(postgres: TestDatabase) -> None:
    settings: Any = (("statement_timeout", "20ms"),)
    database = Database(connector(postgres.dsn, pgbouncer=False, settings=settings), max_connections=1)
    with pytest.raises(Unavailable) as caught:
        await database.fetchval("SELECT pg_sleep(5)")
    assert isinstance(caught.value.__cause__, asyncpg.QueryCanceledError)
    assert await database.fetchval("SELECT 1") == 1
    await database.close()
