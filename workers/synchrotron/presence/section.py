"""The presence updates of a sync response. Spec: client-server API, "Presence"."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from replication.streams import PRESENCE
from shared.core.filters import EventFilter
from shared.core.identifiers import RoomId, UserId
from shared.core.presence import OFFLINE
from shared.storage.engine.pool import Source
from shared.storage.rooms.memberships import get_some_members
from workers.synchrotron.presence.memory import KnownPresence, PresenceMemory, presence_event
from workers.synchrotron.sections.span import Span
from workers.synchrotron.users.sync_user import SyncUser

_MAX_CHANGES = 2_000  # changes that one response looks through, about 2 us each
_MAX_MEMBERS = 500  # of each room, for a user who is new to the room or to this process
_MAX_NEW_ROOMS = 10
_TYPE = "m.presence"


@dataclass(frozen=True, slots=True)
class PresenceSection:
    """The m.presence events of a response."""

    events: Sequence[dict[str, object]] = ()
    #: True if the events are worth a response of their own.
    urgent: bool = False


_NOTHING = PresenceSection()


class PresenceSections:
    """Builds presence sections of at most `max_events` events; empty ones while presence is not enabled."""

    def __init__(self, memory: PresenceMemory, reads: Source, *, enabled: bool, max_events: int) -> None:
        self._memory = memory
        self._reads = reads
        self._enabled = enabled
        self._max_events = max_events

    def has_changed_since(self, seq: int) -> bool:
        """Return True if any user's presence changed after `seq`."""
        return self._memory.last_seq > seq

    async def build(self, user: SyncUser, span: Span, wanted: EventFilter, now_ms: int) -> PresenceSection:
        """Return the presence updates of a response; the latest ones if there are too many."""
        limit = self._max_events if wanted.limit is None else min(wanted.limit, self._max_events)
        if not self._enabled or not self._memory or limit <= 0 or not wanted.match_type(_TYPE):
            return _NOTHING
        if span.since_seq is None:
            found = await self._all(user, span)
        else:
            found = await self._updates(user, span, span.since_seq)
        ignored = user.ignored_users
        events = []
        for known in found:
            sender = known.row.user_id
            if sender not in ignored and wanted.match(type=_TYPE, sender=sender):
                events.append(presence_event(known.row, now_ms))
                if len(events) == limit:
                    break
        urgent = span.since_seq is None or user.presence_changed > span.since_seq
        return PresenceSection(events[::-1], bool(events) and urgent)

    async def in_room(self, room_nid: int, ignored: frozenset[UserId], now_ms: int) -> list[dict[str, object]]:
        """Return the presence of a room's present members, at most `max_events` of them."""
        if not self._enabled:
            return []
        present = [known.row for known in await self._in_rooms([room_nid]) if known.row.state != OFFLINE]
        shown = [row for row in present if row.user_id not in ignored]
        return [presence_event(row, now_ms) for row in shown[: self._max_events]]

    async def _updates(self, user: SyncUser, span: Span, since_seq: int) -> list[KnownPresence]:
        found: dict[UserId, KnownPresence] = {}
        if self._memory.last_seq > since_seq:
            found = {known.row.user_id: known for known in self._changed(user, since_seq)}
        joined = [
            user.memberships[room_id].room_nid
            for room_id in user.changed_since(since_seq)
            if _is_joined(user, room_id) and span.changed(user.memberships[room_id])
        ]
        if joined:
            for known in await self._in_rooms(joined[:_MAX_NEW_ROOMS]):
                if known.row.state != OFFLINE:
                    found.setdefault(known.row.user_id, known)
        return list(found.values())

    async def _all(self, user: SyncUser, span: Span) -> list[KnownPresence]:
        """Return all present users who share a room, and those who went offline after another process's token."""
        rooms = [one.room_nid for one in user.memberships.values() if one.membership == "join"]
        found = {known.row.user_id: known for known in await self._in_rooms(rooms)}
        # `_in_rooms` takes some members of a large room. Members with recent changes are added from memory.
        found |= {known.row.user_id: known for known in self._changed(user, 0)}
        if (own := self._memory.get(user.user_id)) is not None:
            found[user.user_id] = own
        shown = [known for known in found.values() if known.row.state != OFFLINE or _is_new(known, span)]
        return sorted(shown, key=lambda known: known.seq, reverse=True)

    def _changed(self, user: SyncUser, seq: int) -> Iterator[KnownPresence]:
        """Yield users with changes after `seq` who share a room, and the user themselves, the latest change first."""
        joined = {one.room_id for one in user.memberships.values() if one.membership == "join"}
        for known in islice(self._memory.changed_since(seq), _MAX_CHANGES):
            if not joined.isdisjoint(known.rooms) or known.row.user_id == user.user_id:
                yield known

    async def _in_rooms(self, room_nids: Sequence[int]) -> list[KnownPresence]:
        members = await get_some_members(self._reads, room_nids, _MAX_MEMBERS)
        return [known for user_id in members if (known := self._memory.get(user_id)) is not None]


def _is_joined(user: SyncUser, room_id: RoomId) -> bool:
    membership = user.memberships.get(room_id)
    return membership is not None and membership.membership == "join"


def _is_new(known: KnownPresence, span: Span) -> bool:
    if span.since is None:
        return False
    return known.expired or span.is_new(PRESENCE.name, known.row.writer, known.row.position)
