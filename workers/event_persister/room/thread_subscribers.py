"""PURE: who is subscribed to the threads of a room in which something was said lately. Proposal: MSC4306.

What was read from the database and what the stream brings meet here; of both the later position counts.
"""

from collections import OrderedDict
from collections.abc import Collection, Iterable
from typing import TypeAlias

#: Threads of one room: one more is read again.
_MAX_THREADS = 20

#: user id -> (position, subscribed)
_Known: TypeAlias = dict[str, tuple[int, bool]]


class ThreadSubscribers:
    def __init__(self) -> None:
        self._threads: OrderedDict[str, _Known] = OrderedDict()
        self._arriving: dict[str, _Known] = {}  # what came while a thread was being read

    def knows(self, thread_id: str) -> bool:
        """Return whether nothing must be read before an event of the thread is judged."""
        return thread_id in self._threads

    def of(self, thread_id: str) -> Collection[str]:
        """Return the subscribers; nobody where that is not known any more."""
        return {user_id for user_id, (_, subscribed) in self._threads.get(thread_id, {}).items() if subscribed}

    def begin_reading(self, thread_id: str) -> None:
        """From now on nothing that the stream brings is lost on this thread."""
        self._arriving.setdefault(thread_id, {})

    def end_reading(self, thread_id: str, subscribers: Iterable[tuple[str, int]]) -> None:
        """Take in (user id, position) of those whom the database named."""
        arrived = self._arriving.pop(thread_id, {})
        known = self._threads.setdefault(thread_id, {})
        self._threads.move_to_end(thread_id)
        for user_id, position in subscribers:
            _take(known, user_id, position, subscribed=True)
        for user_id, (position, subscribed) in arrived.items():
            _take(known, user_id, position, subscribed=subscribed)
        if len(self._threads) > _MAX_THREADS:
            self._threads.popitem(last=False)

    def take(self, thread_id: str, user_id: str, position: int, *, subscribed: bool) -> None:
        """Take in what the stream says."""
        for threads in (self._threads, self._arriving):
            if (known := threads.get(thread_id)) is not None:
                _take(known, user_id, position, subscribed=subscribed)


def _take(known: _Known, user_id: str, position: int, *, subscribed: bool) -> None:
    if position > known.get(user_id, (0, False))[0]:
        known[user_id] = (position, subscribed)
