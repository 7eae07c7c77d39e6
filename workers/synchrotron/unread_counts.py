"""Unread counts of who syncs here: from memory where they are, else from Postgres by a few look-ups in indices.

Architecture page, section 6. Used by both syncs: once an answer's `end` in the room is known,

    counts = await unread.of(user, room, end)         # RoomCounts
    counts.all.as_json()                              # without threads
    counts.main.as_json(), counts.threads             # with them

and before an answer over many rooms `await unread.prepare(user, rooms, now)`: one query for all that are not in memory.
"""

from collections.abc import Sequence

from shared.core.sync_tokens.vector import Vector
from shared.core.unread import RoomCounts
from shared.storage.read_memberships import RoomMembership
from workers.synchrotron.cached_room import CachedRoom
from workers.synchrotron.sync_user import SyncUser


class UnreadCounts:
    async def of(self, user: SyncUser, room: CachedRoom, end: int) -> RoomCounts:
        """Return what is unread for a user who is joined, up to an ordinal (inclusive) of the room.

        No query where the counts are in memory and all rows since are. A receipt that this process knows of already
        counts, also if the answer's token does not cover it: it is news in a later answer, with the counts again.
        """
        raise NotImplementedError

    async def news(self, user: SyncUser, room: CachedRoom, above: int, end: int) -> bool:
        """Return whether events above one ordinal and up to another may have changed the counts."""
        raise NotImplementedError

    async def prepare(self, user: SyncUser, rooms: Sequence[RoomMembership], now: Vector) -> None:
        """Read the counts of many joined rooms at once, as of the vector of `events`; those in memory are left out."""
        raise NotImplementedError
