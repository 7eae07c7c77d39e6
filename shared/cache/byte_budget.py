"""A cache that keeps what was used last, within a budget in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteBudgetCache(Generic[K, V]):
    """budget_bytes: the sum of the sizes that `put` was told; the entries unused for longest go first.

    Whoever fills it names the stream whose rows invalidate it, and calls `pop` for them.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._bytes = 0

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size_bytes: int) -> list[V]:
        """Keep a value; return those that had to go (perhaps the new one, when it alone exceeds the budget)."""
        self.pop(key)
        self._entries[key] = (value, size_bytes)
        self._bytes += size_bytes
        evicted = []
        while self._bytes > self._budget:
            _, (old, old_size) = self._entries.popitem(last=False)
            self._bytes -= old_size
            evicted.append(old)
        return evicted

    def pop(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self._bytes -= entry[1]
        return entry[0]
