"""Reading receipts: where the members of a room have read to."""

from dataclasses import dataclass

from shared.storage.escape import unescape
from shared.storage.read_source import Source

#: Uses the primary key of receipts.
_OF_ROOM = """
    SELECT user_id, kind, thread_id, event_id, ts_ms, writer, position FROM receipts WHERE room_nid = $1
"""


@dataclass(frozen=True, slots=True)
class ReceiptRecord:
    """kind: m.read or m.read.private; thread_id: "" for an unthreaded receipt."""

    user_id: str
    kind: str
    thread_id: str
    event_id: str
    ts_ms: int
    writer: int
    position: int


async def get_receipts_of_room(source: Source, room_nid: int) -> list[ReceiptRecord]:
    """Return every receipt of the room, private ones too: what is shown to whom is the caller's duty."""
    return [
        ReceiptRecord(unescape(user_id), kind, thread_id, event_id, ts_ms, writer, position)
        for user_id, kind, thread_id, event_id, ts_ms, writer, position in await source.fetch(_OF_ROOM, room_nid)
    ]
