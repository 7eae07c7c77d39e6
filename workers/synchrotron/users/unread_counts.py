"""UnreadRoom counts of who syncs here: from memory where they are, else from Postgres by a few look-ups in indices.

Architecture page, section 6. Used by both syncs: once an answer's `end` in the room is known,

    counts = await unread.of(user, room, end)         # RoomCounts
    counts.all.as_json()                              # without threads
    counts.main.as_json(), counts.threads             # with them

and before an answer over many rooms `await unread.prepare(user, rooms, now)`: one query for all that are not in memory.
"""

from collections.abc import Sequence

from shared.core.errors import Unavailable
from shared.core.sync_tokens.vector import Vector
from shared.core.unread import NotInMemory, RoomCounts, UnknownTotal, UnreadRoom
from shared.storage.engine.pool import Source
from shared.storage.push.unread import get_highlights_before, get_unread, get_unread_of_rooms
from shared.storage.rooms.memberships import RoomMembership
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_rooms import UserRooms

_ROOMS_AT_ONCE = 200  # in one query
_ATTEMPTS = 200  # each one that fails has learned something; there are no more rows than that in memory


class UnreadCounts:
    """users: who accounts for the bytes; reads: counted."""

    def __init__(self, users: UserRooms, reads: Source) -> None:
        self._users = users
        self._reads = reads

    async def of(self, user: SyncUser, room: CachedRoom, end: int) -> RoomCounts:
        """Return what is unread for a user who is joined, up to an ordinal (inclusive) of the room.

        No query where the counts are in memory and all rows since are. A receipt that this process knows of already
        counts, also if the answer's token does not cover it: it is news in a later answer, with the counts again.
        """
        held = user.unread.get(room.room_id)
        if held is None:
            held = UnreadRoom(user.user_id)
            self._keep(user, room.room_id, held)
        before = held.size_bytes
        try:
            return await self._bring_up(user, held, room, end)
        finally:
            self._users.resized(user, held.size_bytes - before)

    async def _bring_up(self, user: SyncUser, held: UnreadRoom, room: CachedRoom, end: int) -> RoomCounts:
        for _ in range(_ATTEMPTS):
            membership = user.memberships[room.room_id].ordinal
            try:
                if held.membership != membership:
                    raise NotInMemory
                if held.at > end:  # another device's answer has come further
                    return await self._apart(user, room, end)
                for known in held.pop_totals():
                    room.counted.set_total(*known)
                held.advance(room.counted, end)
                held.apply_receipts(room.counted)
                return held.counts()
            except UnknownTotal as unknown:
                group, thread_id, ordinal = unknown.group, unknown.thread_id, unknown.ordinal
                highlights = await get_highlights_before(self._reads, room.room_nid, group, thread_id, ordinal)
                room.counted.set_total(group, thread_id, ordinal - 1, highlights)
            except NotInMemory:
                if membership > end:  # what he has joined since is not what is asked for
                    return await self._apart(user, room, end)
                held.load(await get_unread(self._reads, user.user_id, room.room_nid, end), membership)
        raise Unavailable("The room changes too quickly to be counted")

    async def _apart(self, user: SyncUser, room: CachedRoom, end: int) -> RoomCounts:
        unread = UnreadRoom(user.user_id)
        unread.load(await get_unread(self._reads, user.user_id, room.room_nid, end), 0)
        return unread.counts()

    def news(self, user: SyncUser, room: CachedRoom, above: int, end: int) -> bool:
        """Return whether events above one ordinal and up to another may have changed the counts."""
        held = user.unread.get(room.room_id)
        if held is None or not room.counted.has_from(above + 1):
            return end > above
        return any(row.concerns(user.user_id, held.group) for row in room.counted.between(above, end))

    async def prepare(self, user: SyncUser, rooms: Sequence[RoomMembership], now: Vector) -> None:
        """Read the counts of many joined rooms at once, as of the vector of `events`; those in memory are left out."""
        missing = [one for one in rooms if _is_unknown(user, one) and now.covers(one.writer, one.position)]
        for start in range(0, len(missing), _ROOMS_AT_ONCE):
            some = missing[start : start + _ROOMS_AT_ONCE]
            fresh = {one.room_nid: UnreadRoom(user.user_id) for one in some}
            for one in some:
                self._keep(user, one.room_id, fresh[one.room_nid])  # from here on receipts are noted
            found = await get_unread_of_rooms(self._reads, user.user_id, list(fresh), now)
            for one in some:
                unread = fresh[one.room_nid]
                if unread.membership is None:
                    before = unread.size_bytes
                    unread.load(found[one.room_nid], one.ordinal)
                    self._users.resized(user, unread.size_bytes - before)

    def _keep(self, user: SyncUser, room_id: str, unread: UnreadRoom) -> None:
        former = user.unread.get(room_id)
        user.unread[room_id] = unread
        self._users.resized(user, unread.size_bytes - (former.size_bytes if former is not None else 0))


def _is_unknown(user: SyncUser, membership: RoomMembership) -> bool:
    held = user.unread.get(membership.room_id)
    return held is None or held.membership != membership.ordinal
