"""Presence here: what the stream tells reaches those who share a room, and stands in their answers.

A change costs what the user's own rooms cost, whatever is in them: it is noted with him, and each answer looks through
those who changed since. Woken are a few people at most, those in the smallest rooms; everybody else is told with the
next answer that he gets anyway, at the latest when his request has waited for long enough. Changes are taken in once a
second, all together. Spec: client-server API, "Presence".
"""

import asyncio
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from replication.streams import PRESENCE
from shared.core.errors import Unavailable
from shared.core.filters import EventFilter
from shared.core.presence import OFFLINE
from shared.core.rows import EventRow, PresenceRow
from shared.rooms.timeline_event import MEMBER
from shared.runtime.clock import Clock
from shared.storage.encryption.device_lists import get_joined_rooms_of
from shared.storage.engine.pool import Source
from shared.storage.rooms.memberships import get_some_members
from workers.synchrotron.presence.memory import PresenceMemory, Seen, presence_event
from workers.synchrotron.sections.joined_section import Span
from workers.synchrotron.users.sync_user import SyncUser
from workers.synchrotron.users.user_rooms import UserRooms
from workers.synchrotron.waiting.notifier import Notifier

_EVERY_S = 1.0
_BATCH = 200  # people whose rooms one query reads
_MAX_PENDING = 50_000
_MAX_WOKEN = 50  # people whom one change wakes
_MAX_LOOKED_AT = 2_000  # changes that one answer looks through, some 2 us each
_MEMBERS_LOOKED_AT = 500  # of each room, in an answer that tells of everybody, or to who just came into it
_MAX_NEW_ROOMS = 10
_TYPE = "m.presence"


@dataclass(frozen=True, slots=True)
class PresenceSection:
    """events: m.presence; urgent: something in them is worth an answer of its own."""

    events: Sequence[dict[str, object]] = ()
    urgent: bool = False


_NOTHING = PresenceSection()


class PresenceFeed:
    """The stream's listener. reads: counted."""

    def __init__(
        self, memory: PresenceMemory, users: UserRooms, notifier: Notifier, reads: Source, clock: Clock
    ) -> None:
        self._memory = memory
        self._users = users
        self._notifier = notifier
        self._reads = reads
        self._clock = clock

        self._pending: dict[str, PresenceRow] = {}
        self._ended: set[str] = set()  # of the pending: by time
        self._news = asyncio.Event()

    def apply(self, rows: Sequence[PresenceRow]) -> None:
        for row in rows:
            if row.user_id in self._pending:
                self._pending[row.user_id] = row
                self._ended.discard(row.user_id)
            elif not self._memory.take_in(row) and len(self._pending) < _MAX_PENDING:
                self._pending[row.user_id] = row
        if self._pending:
            self._news.set()

    def over(self, writer: int, position: int) -> None:
        """`Follower.follow`. Pending rows become what they tell first; a minute is long enough for that."""
        self._memory.over(writer, position, self._clock.now_ms())

    def apply_events(self, rows: Iterable[EventRow]) -> None:
        """Called once the rows were applied to the users: who comes into a room, or goes."""
        if not self._memory:
            return
        for row in rows:
            if row.resolved:
                for user_id, membership, *_ in row.members:
                    self._memory.moved(user_id, row.room_id, membership, self._users.seq)
            elif row.type == MEMBER and row.status == 0 and row.state_key is not None:
                membership = "join" if b'"membership":"join"' in row.json else "leave"
                self._memory.moved(row.state_key, row.room_id, membership, self._users.seq)

    async def run(self) -> None:
        """Take in what changed, once a second. Runs for ever."""
        while True:
            try:
                async with asyncio.timeout(_EVERY_S):
                    await self._news.wait()
            except TimeoutError:
                pass
            self._news.clear()
            for row in self._memory.orphans(self._clock.now_ms()):
                if row.user_id not in self._pending:
                    self._pending[row.user_id] = row
                    self._ended.add(row.user_id)
            if self._pending:
                await self.settle()
                await asyncio.sleep(_EVERY_S)

    async def settle(self) -> None:
        """Take in all that is pending, and wake whom it concerns. While the database is away it waits."""
        woken: set[str] = set()
        try:
            while self._pending:
                batch = list(islice(self._pending, _BATCH))
                rooms = {user_id: self._users.joined_rooms_of(user_id) for user_id in batch}
                unknown = {user_id for user_id, found in rooms.items() if found is None}
                read = await get_joined_rooms_of(self._reads, unknown) if unknown else {}
                for user_id in batch:
                    woken.update(self._change(user_id, read.get(user_id, rooms[user_id]) or ()))
                await asyncio.sleep(0)  # some 10 ms each: others get their turn
        except Unavailable:
            self._news.set()
        self._notifier.wake(woken)

    def _change(self, user_id: str, rooms: Iterable[str]) -> Collection[str]:
        row = self._pending.pop(user_id)
        by_time = user_id in self._ended
        self._ended.discard(user_id)
        read = [sys.intern(room_id) for room_id in rooms if self._users.readers_in(room_id)]
        seq, woken = self._users.apply_presence(user_id, read, _MAX_WOKEN)
        self._memory.change(row, seq, read, by_time=by_time)
        return woken


class PresenceSections:
    """reads: counted. enabled: false: there is nothing to tell; max_events: in one answer."""

    def __init__(self, memory: PresenceMemory, reads: Source, *, enabled: bool, max_events: int) -> None:
        self._memory = memory
        self._reads = reads
        self._enabled = enabled
        self._max_events = max_events

    def has_changed_since(self, seq: int) -> bool:
        """Return whether anybody's presence changed after a number."""
        return self._memory.last_seq > seq

    async def build(self, user: SyncUser, span: Span, wanted: EventFilter, now_ms: int) -> PresenceSection:
        """Return whose presence belongs into the answer, those who changed last if they are too many."""
        limit = self._max_events if wanted.limit is None else min(wanted.limit, self._max_events)
        if not self._enabled or not self._memory or limit <= 0 or not wanted.match_type(_TYPE):
            return _NOTHING
        if span.since_seq is None:
            found = await self._all(user, span)
        else:
            found = await self._news(user, span, span.since_seq)
        ignored = user.ignored_users
        events = []
        for seen in found:
            sender = seen.row.user_id
            if sender not in ignored and wanted.match(type=_TYPE, sender=sender):
                events.append(presence_event(seen.row, now_ms))
                if len(events) == limit:
                    break
        urgent = span.since_seq is None or user.presence_news > span.since_seq
        return PresenceSection(events[::-1], bool(events) and urgent)

    async def _news(self, user: SyncUser, span: Span, since_seq: int) -> list[Seen]:
        found: dict[str, Seen] = {}
        if self._memory.last_seq > since_seq:
            found = {seen.row.user_id: seen for seen in self._changed(user, since_seq)}
        joined = [
            user.memberships[room_id].room_nid
            for room_id in user.changed_since(since_seq)
            if _is_in(user, room_id) and span.changed(user.memberships[room_id])
        ]
        if joined:
            for seen in await self._in_rooms(joined[:_MAX_NEW_ROOMS]):
                if seen.row.state != OFFLINE:
                    found.setdefault(seen.row.user_id, seen)
        return list(found.values())

    async def _all(self, user: SyncUser, span: Span) -> list[Seen]:
        """Return everybody who is present and shares a room, and who went since a token of another process."""
        rooms = [one.room_nid for one in user.memberships.values() if one.membership == "join"]
        found = {seen.row.user_id: seen for seen in await self._in_rooms(rooms)}
        # Of large rooms only some members were looked at: those who changed lately are in memory anyway.
        found |= {seen.row.user_id: seen for seen in self._changed(user, 0)}
        if (own := self._memory.get(user.user_id)) is not None:
            found[user.user_id] = own
        shown = [seen for seen in found.values() if seen.row.state != OFFLINE or _is_news(seen, span)]
        return sorted(shown, key=lambda seen: seen.seq, reverse=True)

    def _changed(self, user: SyncUser, seq: int) -> Iterator[Seen]:
        """Yield those who changed after a number and share a room with the user, and himself; the last one first."""
        joined = {one.room_id for one in user.memberships.values() if one.membership == "join"}
        for seen in islice(self._memory.changed_since(seq), _MAX_LOOKED_AT):
            if not joined.isdisjoint(seen.rooms) or seen.row.user_id == user.user_id:
                yield seen

    async def _in_rooms(self, room_nids: Sequence[int]) -> list[Seen]:
        members = await get_some_members(self._reads, room_nids, _MEMBERS_LOOKED_AT)
        return [seen for user_id in members if (seen := self._memory.get(user_id)) is not None]


def _is_in(user: SyncUser, room_id: str) -> bool:
    membership = user.memberships.get(room_id)
    return membership is not None and membership.membership == "join"


def _is_news(seen: Seen, span: Span) -> bool:
    if span.since is None:
        return False
    return seen.by_time or span.is_new(PRESENCE.name, seen.row.writer, seen.row.position)
