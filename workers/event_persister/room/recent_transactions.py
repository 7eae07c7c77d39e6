"""The latest transactions of clients in a room. The database finds an older one when it is stored again."""

TRANSACTIONS_KEPT_MS = 3_600_000
MAX_TRANSACTIONS = 5000  # per room


class RecentTransactions(dict[bytes, tuple[str, int]]):
    """key -> (event id, time in ms)."""

    def note(self, key: bytes, event_id: str, now_ms: int) -> None:
        """Add a transaction that was just stored, and drop those beyond the limits of age and number."""
        self[key] = (event_id, now_ms)
        while True:  # insertion order is age
            oldest = next(iter(self))
            recent = self[oldest][1] >= now_ms - TRANSACTIONS_KEPT_MS
            if recent and len(self) <= MAX_TRANSACTIONS:
                return
            del self[oldest]
