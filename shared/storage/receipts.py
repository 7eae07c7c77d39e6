"""Writing receipts: one row per (room, user, kind, thread), in the stream `receipts`. Any client_api may write."""

from dataclasses import dataclass

from shared.storage.escape import unescape
from shared.storage.fenced import fenced_statement
from shared.storage.pool import Database

#: $2 room, $3 user, $4 kind, $5 thread or '', $6 event, $7 its ordinal, $8 now. A receipt that is not ahead of the one
#: there changes nothing. Uses the primary key of receipts.
SET_RECEIPT = fenced_statement(
    "set_receipt",
    {
        "stored": """
            INSERT INTO receipts AS t
                (room_nid, user_id, kind, thread_id, event_id, ordinal, ts_ms, writer, position)
            SELECT $2, $3, $4, $5, $6, $7, $8, $1, nextval('stream_receipts') FROM fence
            ON CONFLICT (room_nid, user_id, kind, thread_id) DO UPDATE
                SET event_id = excluded.event_id, ordinal = excluded.ordinal, ts_ms = excluded.ts_ms,
                    writer = excluded.writer, position = excluded.position
                WHERE excluded.ordinal > t.ordinal AND excluded.position > t.position
            RETURNING position
        """
    },
    "(SELECT position FROM stored) AS position",
)
# Uses rooms_room_id_key, the primary key of memberships, events_by_id; for an event that isn't live, the newest live
# one that isn't deeper, by events_room_nid_ordinal_key.
_TARGET = """
    SELECT r.room_nid, m.membership, e.event_id, e.json,
           coalesce(e.ordinal, (SELECT l.ordinal FROM events l
                                WHERE l.room_nid = e.room_nid AND l.ordinal IS NOT NULL AND l.depth <= e.depth
                                ORDER BY l.ordinal DESC LIMIT 1), 0) AS ordinal
    FROM rooms r
    LEFT JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $2
    LEFT JOIN events e ON e.event_id = $3 AND e.room_nid = r.room_nid AND e.status = 0
    WHERE r.room_id = $1
"""


@dataclass(frozen=True, slots=True)
class ReceiptTarget:
    """The room, the user's membership there, and the event if it is an accepted one of that room.

    ordinal: of the event, or of the live event before it.
    """

    room_nid: int
    membership: str | None
    event_id: str | None
    event_json: bytes | None
    ordinal: int


async def get_receipt_target(database: Database, room_id: str, user_id: str, event_id: str) -> ReceiptTarget | None:
    """Return what a receipt names; None when the room is not known. The ids are free of U+0000."""
    row = await database.fetchrow(_TARGET, room_id, user_id, event_id)
    if row is None:
        return None
    membership = row["membership"]
    return ReceiptTarget(
        row["room_nid"], unescape(membership) if membership is not None else None, row["event_id"], row["json"],
        row["ordinal"],
    )  # fmt: skip
