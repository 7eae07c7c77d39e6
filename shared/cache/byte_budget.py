"""Least recently used caches with a budget in bytes. `sizes.py` says how to estimate the sizes of entries."""

from collections import OrderedDict
from collections.abc import Hashable, Iterator
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
        #: The sum of the sizes.
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[K]:
        return iter(self._entries)

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
        self.size_bytes += size_bytes
        evicted = []
        while self.size_bytes > self._budget:
            evicted.append(self._evict())
        return evicted

    def pop(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        self.size_bytes -= entry[1]
        return entry[0]

    def clear(self) -> None:
        self._entries.clear()
        self.size_bytes = 0

    def _evict(self) -> V:
        _, (value, size_bytes) = self._entries.popitem(last=False)
        self.size_bytes -= size_bytes
        return value


class SharedBudgetCache(Generic[K, V]):
    """The same for entries that users own: none of them takes more than a share, whatever they ask for.

    A user beyond their share loses their own least recently used entries. A value larger than the share is not stored.
    """

    def __init__(self, budget_bytes: int, share_bytes: int) -> None:
        self._budget = budget_bytes
        self._share = share_bytes
        self._entries: OrderedDict[K, tuple[V, int, str]] = OrderedDict()
        #: The keys of each owner, least recently used first, and their bytes.
        self._owned: dict[str, OrderedDict[K, None]] = {}
        self._owned_bytes: dict[str, int] = {}
        #: The sum of the sizes.
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: K) -> V | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        self._entries.move_to_end(key)
        self._owned[entry[2]].move_to_end(key)
        return entry[0]

    def put(self, key: K, value: V, size_bytes: int, owner: str) -> None:
        """Store a value. size_bytes: with `OWNED_ENTRY_BYTES` for the entry itself. owner: a user id."""
        self.pop(key)
        if size_bytes > min(self._share, self._budget):
            return
        self._entries[key] = (value, size_bytes, owner)
        self._owned.setdefault(owner, OrderedDict())[key] = None
        self._owned_bytes[owner] = self._owned_bytes.get(owner, 0) + size_bytes
        self.size_bytes += size_bytes
        while self._owned_bytes[owner] > self._share:
            self.pop(next(iter(self._owned[owner])))
        while self.size_bytes > self._budget:
            self.pop(next(iter(self._entries)))

    def pop(self, key: K) -> V | None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        value, size_bytes, owner = entry
        self.size_bytes -= size_bytes
        del self._owned[owner][key]
        self._owned_bytes[owner] -= size_bytes
        if not self._owned[owner]:
            del self._owned[owner], self._owned_bytes[owner]
        return value

    def bytes_of(self, owner: str) -> int:
        """Return the sum of the sizes of an owner's entries."""
        return self._owned_bytes.get(owner, 0)


#: What a `SharedBudgetCache` takes for an entry of a user with few entries, beside key and value.
OWNED_ENTRY_BYTES = 900
