"""A writer of one connection, and events with usual values, for tests that store events."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import asyncpg

from shared.core.errors import Fenced
from shared.storage.engine.fenced import FencedStatement
from shared.storage.engine.pool import transient_as_unavailable
from shared.storage.engine.statements import Parameters
from shared.storage.engine.text_codec import set_text_codec
from shared.storage.events.batch import EventToStore
from shared.storage.fleet.leases import insert_lease


class OneConnection:
    """A writer of one connection."""

    def __init__(self, conn: asyncpg.Connection, lease: int) -> None:
        self.conn = conn
        self.lease = lease

    async def write(
        self, statement: FencedStatement[Parameters], record: Parameters, *, streams: Sequence[str] = ()
    ) -> asyncpg.Record:
        with transient_as_unavailable():
            row = await self.conn.fetchrow(statement.sql, self.lease, *statement.values(record))
        assert row is not None
        if row["fence"] == 0:
            raise Fenced("fenced")
        return row


@asynccontextmanager
async def writing(dsn: str) -> AsyncIterator[OneConnection]:
    conn = await asyncpg.connect(dsn)
    set_text_codec(conn)
    try:
        lease = await insert_lease(
            conn,
            process="p",
            type_="event_persister",
            host="h",
            pid=1,
            address="a:1",
            version="0",
            sequences={"events": "stream_events"},
        )
        yield OneConnection(conn, lease)
    finally:
        await conn.close()


def event(room: int, nid: int, ordinal: int, type: str = "m.room.message", **more: Any) -> EventToStore:
    fields: dict[str, Any] = {
        "room_nid": room,
        "event_nid": nid,
        "event_id": f"${nid}",
        "ordinal": ordinal,
        "depth": ordinal,
        "type": type,
        "state_key": None,
        "sender": "@a:b",
        "origin_server_ts": 1,
        "prev_nids": [1, 2],
        "auth_nids": [],
        "replaces_nid": None,
        "redacted_by": None,
        "redacts_nid": None,
        "txn_device": None,
        "txn_id": None,
        "json": b"{}",
    }
    return EventToStore(**(fields | more))
