"""Receipts: one row per (room, user, kind, thread), in the stream `receipts`. Any client_api may write."""

from dataclasses import dataclass

from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database, Source
from shared.storage.engine.statements import parameters


@parameters
class SetReceipt:
    """thread_id: "" for an unthreaded receipt. ordinal: of the event."""

    room_nid: int
    user_id: UserId
    kind: str
    thread_id: str
    event_id: EventId
    ordinal: int
    ts_ms: int


#: A receipt that is not ahead of the stored one changes nothing. Uses the primary key of receipts.
SET_RECEIPT = fenced_statement(
    "set_receipt",
    SetReceipt,
    {
        "stored": """
            INSERT INTO receipts AS t
                (room_nid, user_id, kind, thread_id, event_id, ordinal, ts_ms, writer, position)
            SELECT :room_nid, :user_id, :kind, :thread_id, :event_id, :ordinal, :ts_ms, :lease,
                   nextval('stream_receipts') FROM fence
            ON CONFLICT (room_nid, user_id, kind, thread_id) DO UPDATE
                SET event_id = excluded.event_id, ordinal = excluded.ordinal, ts_ms = excluded.ts_ms,
                    writer = excluded.writer, position = excluded.position
                WHERE excluded.ordinal > t.ordinal AND excluded.position > t.position
            RETURNING position
        """
    },
    "(SELECT position FROM stored) AS position",
)
#: Uses rooms_room_id_key, the primary key of memberships, events_by_id. Fetched history lies before its anchor.
_TARGET = """
    SELECT r.room_nid, m.membership, m.ordinal, e.event_id, coalesce(e.ordinal, e.anchor - 1),
           coalesce(e.ordinal, e.anchor)
    FROM rooms r
    LEFT JOIN memberships m ON m.room_nid = r.room_nid AND m.user_id = $2
    LEFT JOIN events e ON e.event_id = $3 AND e.room_nid = r.room_nid AND e.status = 0
     AND (e.ordinal IS NOT NULL OR e.anchor IS NOT NULL)
    WHERE r.room_id = $1
"""
#: Uses the primary key of receipts.
_OF_ROOM = """
    SELECT user_id, kind, thread_id, event_id, ts_ms, writer, position FROM receipts WHERE room_nid = $1
"""


@dataclass(frozen=True, slots=True)
class ReceiptTarget:
    """The room, the user's membership there, and the event if it is in that room's timeline.

    event_id: None: there is no such event; ordinal and place mean nothing then.
    ordinal: of the event, or of the live event before it.
    place: the event's own ordinal, or for fetched history that of the live event after it.
    """

    room_nid: int
    membership: str | None
    membership_ordinal: int | None
    event_id: EventId | None
    ordinal: int
    place: int


async def get_receipt_target(
    database: Database, room_id: RoomId, user_id: UserId, event_id: EventId
) -> ReceiptTarget | None:
    """Return the target of a receipt, None if the room is unknown."""
    row = await database.fetchrow(_TARGET, room_id, user_id, event_id)
    if row is None:
        return None
    room_nid, membership, membership_ordinal, found, ordinal, place = row
    return ReceiptTarget(room_nid, membership, membership_ordinal, found, ordinal or 0, place or 0)


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """A receipt. kind: m.read or m.read.private. thread_id: "" for an unthreaded receipt."""

    user_id: UserId
    kind: str
    thread_id: str
    event_id: EventId
    ts_ms: int
    writer: int
    position: int


async def get_receipts_of_room(source: Source, room_nid: int) -> list[ReceiptRecord]:
    """Return every receipt of the room, private ones too. The caller decides who may see them."""
    return [ReceiptRecord(*row) for row in await source.fetch(_OF_ROOM, room_nid)]
