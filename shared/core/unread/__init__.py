"""UnreadRoom counts. Spec: client-server API, "Receiving notifications", "Marking notifications as read"."""

from shared.core.unread.counted_rows import DUMMY, CountedRows, UnknownTotal
from shared.core.unread.counts import Count, RoomCounts
from shared.core.unread.unread_room import MAIN, NotInMemory, UnreadRoom, UnreadSnapshot, receipt_thread

__all__ = [
    "DUMMY",
    "MAIN",
    "Count",
    "CountedRows",
    "NotInMemory",
    "RoomCounts",
    "UnknownTotal",
    "UnreadRoom",
    "UnreadSnapshot",
    "receipt_thread",
]
