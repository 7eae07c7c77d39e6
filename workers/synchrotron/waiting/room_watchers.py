"""Requests that wait for news of a room, whoever asks: those who look into rooms that they are not in."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.core.rows import EventRow


class Watch:
    """One request's wait. Call `forget` before looking: what comes after that is news."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.closed = False

    def forget(self) -> None:
        self.event.clear()

    async def news(self, limit_s: float) -> bool:
        """Wait for a row; False when the time is over, or the process drains."""
        if self.closed or limit_s <= 0:
            return False
        try:
            async with asyncio.timeout(limit_s):
                await self.event.wait()
        except TimeoutError:
            return False
        return not self.closed


class RoomWatchers:
    """As many as there are requests, which the pool bounds."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._closed = False

    def apply_events(self, rows: Sequence[EventRow]) -> None:
        """Wake those who wait for one of the rooms."""
        if self._watches:
            for row in rows:
                for watch in self._watches.get(row.room_id, ()):
                    watch.event.set()

    @contextmanager
    def watch(self, room_id: str) -> Iterator[Watch]:
        watch = Watch()
        watch.closed = self._closed
        watches = self._watches.setdefault(room_id, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches and self._watches.get(room_id) is watches:
                del self._watches[room_id]

    def close(self) -> None:
        """Let every waiting request answer as it stands: the process drains."""
        self._closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.closed = True
                watch.event.set()
