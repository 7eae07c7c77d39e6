"""PURE: the subscribers of the recently used threads of a room. Proposal: MSC4306.

Rows come from the database and from the stream. The later position counts.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TypeAlias

from shared.cache.sizes import text_size
from shared.core.identifiers import UserId

#: Threads of one room. The rest are read again when they are used.
_MAX_THREADS = 20

#: Measured with tracemalloc: a thread with its id, and a subscriber without theirs.
_THREAD_BYTES = 600
_SUBSCRIBER_BYTES = 150

#: user id -> (position, subscribed)
_Known: TypeAlias = dict[UserId, tuple[int, bool]]


class ThreadSubscribers:
    def __init__(self) -> None:
        self._threads: OrderedDict[str, _Known] = OrderedDict()
        self._arriving: dict[str, _Known] = {}  # rows of the stream while a thread is being read

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        users = sum(sum(map(text_size, known)) + _SUBSCRIBER_BYTES * len(known) for known in self._threads.values())
        return users + _THREAD_BYTES * len(self._threads)

    def knows(self, thread_id: str) -> bool:
        """Return True if an event of the thread can be counted without reading."""
        return thread_id in self._threads

    def of(self, thread_id: str) -> Collection[UserId]:
        """Return the subscribers, none if they are not known any more."""
        return {user_id for user_id, (_, subscribed) in self._threads.get(thread_id, {}).items() if subscribed}

    def begin_reading(self, thread_id: str) -> None:
        """Keep what the stream brings for this thread until `end_reading`."""
        self._arriving.setdefault(thread_id, {})

    def end_reading(self, thread_id: str, subscribers: Iterable[tuple[UserId, int]]) -> None:
        """Set the subscribers that were read: (user id, position)."""
        arrived = self._arriving.pop(thread_id, {})
        known = self._threads.setdefault(thread_id, {})
        self._threads.move_to_end(thread_id)
        for user_id, position in subscribers:
            _take(known, user_id, position, subscribed=True)
        for user_id, (position, subscribed) in arrived.items():
            _take(known, user_id, position, subscribed=subscribed)
        if len(self._threads) > _MAX_THREADS:
            self._threads.popitem(last=False)

    def take(self, thread_id: str, user_id: UserId, position: int, *, subscribed: bool) -> None:
        """Take in a row of the stream."""
        for threads in (self._threads, self._arriving):
            if (known := threads.get(thread_id)) is not None:
                _take(known, user_id, position, subscribed=subscribed)


def _take(known: _Known, user_id: UserId, position: int, *, subscribed: bool) -> None:
    if position > known.get(user_id, (0, False))[0]:
        known[user_id] = (position, subscribed)
