"""Unread counts. Spec: client-server API, "Receiving notifications", "Marking notifications as read"."""

from shared.core.unread.counts import Count, RoomCounts
from shared.core.unread.memory import MAIN, BehindMemory, FoundCounts, Unread, receipt_thread
from shared.core.unread.rows import DUMMY, CountedRows, UnknownTotal

__all__ = [
    "DUMMY", "MAIN", "BehindMemory", "Count", "CountedRows", "FoundCounts", "RoomCounts", "UnknownTotal", "Unread",
    "receipt_thread",
]  # fmt: skip
