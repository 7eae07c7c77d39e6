"""Clients' transactions of a room in memory. An older one is found by the database when it is stored again."""

from collections.abc import Mapping

TRANSACTIONS_KEPT_MS = 3_600_000
MAX_TRANSACTIONS = 5000  # per room


class RecentTransactions:
    """stored: key -> (event id, when)."""

    def __init__(self, stored: Mapping[bytes, tuple[str, int]] | None = None) -> None:
        self._events: dict[bytes, tuple[str, int]] = dict(stored or {})

    def __len__(self) -> int:
        return len(self._events)

    def get(self, key: bytes) -> tuple[str, int] | None:
        """Return the transaction's event id and time."""
        return self._events.get(key)

    def note(self, key: bytes, event_id: str, now_ms: int) -> None:
        """Take in one that was just stored, and forget what is too old or too much."""
        self._events[key] = (event_id, now_ms)
        while True:  # insertion order is age
            oldest = next(iter(self._events))
            recent = self._events[oldest][1] >= now_ms - TRANSACTIONS_KEPT_MS
            if recent and len(self._events) <= MAX_TRANSACTIONS:
                return
            del self._events[oldest]
