"""A least recently used cache with a budget in bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class ByteBudgetCache(Generic[K, V]):
    """A cache that evicts the least recently used entries first.

    budget_bytes: the limit for the sum of the sizes passed to `put`.
    The owner of a cache names the stream whose rows invalidate it, and calls `pop` for them.
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
        """Store a value and return the evicted ones. The new value is among them if it alone exceeds the budget."""
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
