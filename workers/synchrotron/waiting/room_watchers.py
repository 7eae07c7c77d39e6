"""Requests that wait for events of a room, for previews by users who are not in it."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from shared.core.identifiers import RoomId
from shared.core.rows import EventRow


class Watch:
    """One waiting request. Call `reset` before reading the room; later events then end the wait."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.closed = False

    def reset(self) -> None:
        self.event.clear()

    async def wait(self, limit_s: float) -> bool:
        """Return True as soon as the room has an event, False at the limit or when the process drains."""
        if self.closed or limit_s <= 0:
            return False
        try:
            async with asyncio.timeout(limit_s):
                await self.event.wait()
        except TimeoutError:
            return False
        return not self.closed


class RoomWatchers:
    """The watches of all rooms. The pool's connection limit bounds their number."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}
        self._closed = False

    def apply_events(self, rows: Sequence[EventRow]) -> None:
        """Wake the requests that watch one of the rooms."""
        if self._watches:
            for row in rows:
                for watch in self._watches.get(row.room_id, ()):
                    watch.event.set()

    @contextmanager
    def watch(self, room_id: RoomId) -> Iterator[Watch]:
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
        """Let every waiting request respond now, since the process drains."""
        self._closed = True
        for watches in self._watches.values():
            for watch in watches:
                watch.closed = True
                watch.event.set()
