"""The memory that Python allocates while a cache is filled, and texts of usual and of hostile clients."""

import gc
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

_T = TypeVar("_T")
#: Neither the accounted size nor the measured one may be more than this times the other.
FACTOR = 1.5


@dataclass(frozen=True, slots=True)
class Sizes:
    """The size of a cache's contents in bytes: as the cache accounts for it, and as it was measured."""

    accounted: int
    measured: int

    @property
    def ratio(self) -> float:
        return self.accounted / self.measured


def sizes_of(make: Callable[[], _T], fill: Callable[[_T], Any], accounted: Callable[[_T], int]) -> Sizes:
    """Fill a new cache. Texts must be made while it is filled, so that they are counted."""
    gc.collect()
    tracemalloc.start()
    try:
        cache = make()
        said_before = accounted(cache)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        kept = fill(cache)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        del kept
        return Sizes(accounted(cache) - said_before, after - before)
    finally:
        tracemalloc.stop()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of contents. pad: makes an id as long as it may be. bytes: of a large text."""

    name: str
    hostile: bool
    large_bytes: int

    def id(self, sigil: str, number: int) -> str:
        """Return an id: some 45 characters, or 255 bytes in characters that take four bytes each."""
        if not self.hostile:
            return f"{sigil}{number:012}abcdefghijklmnop:bees.example"
        return f"{sigil}{number:012}" + "\N{HONEYBEE}" * 55 + ":bees.example"

    def text(self, number: int) -> str:
        return f"{number:012}" + "x" * self.large_bytes


SMALL = Kind("small", hostile=False, large_bytes=20)
LARGE = Kind("large", hostile=False, large_bytes=20_000)
HOSTILE = Kind("hostile", hostile=True, large_bytes=20)
KINDS = (SMALL, LARGE, HOSTILE)


def received(row: _T) -> _T:
    """Return the row as it comes from another process: no text of it is shared."""
    return msgspec.msgpack.decode(msgspec.msgpack.encode(row), type=type(row))
