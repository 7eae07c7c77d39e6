"""Where more of a room's history may come from, when a page reaches a gap in what is stored."""

from typing import Protocol

from shared.storage.read_timeline import RoomRecord


class HistorySource(Protocol):
    async def fill(self, room: RoomRecord, anchor: int) -> bool:
        """Fetch events that are missing just before live event `anchor`, or before the history that we have there.

        Return whether there are more now than before: the page is then read on from where it was. When there are not,
        it goes on behind the gap, to the older events that we do have.
        """
        ...


class StoredHistory:
    """There is no more than what is stored: no other server is asked."""

    async def fill(self, room: RoomRecord, anchor: int) -> bool:
        return False
