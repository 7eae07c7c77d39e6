"""Unread counts of the users who sync here: from memory, else from Postgres by a few index look-ups.

Architecture page, section 6. Both forms of sync use it. Once the end of a response in a room is known:

    counts = await unread.of(user, room, end)         # RoomCounts
    counts.all.as_json()                              # all threads together
    counts.main.as_json(), counts.threads             # the main timeline and each thread

Before a response with many rooms, `await unread.preload(user, rooms, now)` reads all missing counts by one query.
"""

from collections.abc import Sequence

from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import NotInMemory, RoomCounts, UnknownTotal, UnreadRoom
from shared.storage.engine.pool import Source
from shared.storage.push.unread import get_highlights_before, get_unread, get_unread_of_rooms
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_cache import UserCache

_ROOMS_PER_QUERY = 200
_ATTEMPTS = 200  # each failed attempt loads what it lacked; memory never holds more rows than this


class UnreadCounts:
    """The counts of all users in memory. `users` accounts for their bytes."""

    def __init__(self, users: UserCache, reads: Source) -> None:
        self._users = users
        self._reads = reads

    async def of(self, user: SyncUser, room: CachedRoom, end: int) -> RoomCounts:
        """Return the unread counts of a joined user up to an ordinal (inclusive) of the room.

        Without a query if the counts and all rows since are in memory. A receipt counts as soon as this process knows
        it, even if the response's token does not cover it yet. A later response then has the receipt and the same
        counts.
        """
        unread = user.unread.get(room.room_id)
        if unread is None:
            unread = UnreadRoom(user.user_id)
            self._store(user, room.room_id, unread)
        size_bytes = unread.size_bytes
        try:
            return await self._advance(user, unread, room, end)
        finally:
            self._users.account(user, unread.size_bytes - size_bytes)

    async def _advance(self, user: SyncUser, unread: UnreadRoom, room: CachedRoom, end: int) -> RoomCounts:
        for _ in range(_ATTEMPTS):
            membership = user.memberships[room.room_id].ordinal
            try:
                if unread.membership != membership:
                    raise NotInMemory
                if unread.at > end:  # a response to another device has advanced further
                    return await self._read_apart(user, room, end)
                for known in unread.pop_totals():
                    room.counted.set_total(*known)
                unread.advance(room.counted, end)
                unread.apply_receipts(room.counted)
                return unread.counts()
            except UnknownTotal as unknown:
                group, thread_id, ordinal = unknown.group, unknown.thread_id, unknown.ordinal
                highlights = await get_highlights_before(self._reads, room.room_nid, group, thread_id, ordinal)
                room.counted.set_total(group, thread_id, ordinal - 1, highlights)
            except NotInMemory:
                if membership > end:  # the user has rejoined since: the counts in memory begin there
                    return await self._read_apart(user, room, end)
                unread.load(await get_unread(self._reads, user.user_id, room.room_nid, end), membership)
        raise Unavailable("The room changes too quickly to count its unread events. Please try again")

    async def _read_apart(self, user: SyncUser, room: CachedRoom, end: int) -> RoomCounts:
        unread = UnreadRoom(user.user_id)
        unread.load(await get_unread(self._reads, user.user_id, room.room_nid, end), 0)
        return unread.counts()

    def may_have_changed(self, user: SyncUser, room: CachedRoom, above: int, end: int) -> bool:
        """Return True if events above one ordinal and up to another may have changed the counts."""
        unread = user.unread.get(room.room_id)
        if unread is None or not room.counted.has_from(above + 1):
            return end > above
        return any(row.concerns(user.user_id, unread.group) for row in room.counted.between(above, end))

    async def preload(self, user: SyncUser, rooms: Sequence[RoomMembership], now: Vector) -> None:
        """Read the missing counts of many joined rooms together, as of a vector of the stream `events`."""
        missing = [one for one in rooms if not _is_in_memory(user, one) and now.covers(one.writer, one.position)]
        for start in range(0, len(missing), _ROOMS_PER_QUERY):
            batch = missing[start : start + _ROOMS_PER_QUERY]
            fresh = {one.room_nid: UnreadRoom(user.user_id) for one in batch}
            for one in batch:
                self._store(user, one.room_id, fresh[one.room_nid])  # before the query: receipts are noted from here on
            found = await get_unread_of_rooms(self._reads, user.user_id, list(fresh), now)
            for one in batch:
                unread = fresh[one.room_nid]
                if unread.membership is None:
                    size_bytes = unread.size_bytes
                    unread.load(found[one.room_nid], one.ordinal)
                    self._users.account(user, unread.size_bytes - size_bytes)

    def _store(self, user: SyncUser, room_id: RoomId, unread: UnreadRoom) -> None:
        replaced = user.unread.get(room_id)
        user.unread[room_id] = unread
        self._users.account(user, unread.size_bytes - (replaced.size_bytes if replaced is not None else 0))


def _is_in_memory(user: SyncUser, membership: RoomMembership) -> bool:
    unread = user.unread.get(membership.room_id)
    return unread is not None and unread.membership == membership.ordinal
