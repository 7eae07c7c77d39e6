"""Clients' transactions: a retry gets the first answer again, also after a restart.

Spec: client-server API, "Transaction identifiers". The answer's row is stored with the event (`commit.py`). Its primary
key also catches a retry that no process has in memory any more.
"""

from shared.core.identifiers import EventId
from shared.storage.engine.pool import Connection, Database

PRIMARY_KEY = "client_transactions_pkey"

#: Uses client_transactions_by_room.
_RECENT = """
    SELECT key, event_id, created_ms FROM client_transactions
    WHERE room_nid = $1 AND created_ms > $2 ORDER BY created_ms DESC LIMIT $3
"""
#: Uses the primary key.
_ONE = "SELECT event_id FROM client_transactions WHERE room_nid = $1 AND key = $2"


async def get_recent_transactions(
    conn: Connection, room_nid: int, since_ms: int, limit: int
) -> dict[bytes, tuple[EventId, int]]:
    """Return key -> (event id, time) of the room's latest transactions after a time (exclusive), oldest first."""
    rows = await conn.fetch(_RECENT, room_nid, since_ms, limit)
    return {key: (event_id, ms) for key, event_id, ms in reversed(rows)}


async def get_transaction(database: Database, room_nid: int, key: bytes) -> EventId | None:
    """Return the event id in the answer to this transaction."""
    event_id: EventId | None = await database.fetchval(_ONE, room_nid, key)
    return event_id
