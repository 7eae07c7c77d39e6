"""PURE: the sticky events of all rooms. Proposal: MSC4354.

Events are sticky for an hour at most, so all of them are in memory. In a room without sticky events, as nearly all
are, they cost a response one dictionary look-up.
"""

import heapq
from collections.abc import Collection, Iterable, Mapping

import orjson

from shared.core.identifiers import RoomId
from shared.core.rows import EventRow
from shared.core.sticky_events import STICKY_KEYS, sticky_until
from shared.storage.events.sticky import StickyEvent

#: In all rooms, at most 600 bytes each: an event has numbers only. Beyond that the next events to expire are dropped
#: early.
MAX_EVENTS = 100_000
_MARKS = tuple(f'"{key}"'.encode() for key in STICKY_KEYS)
_NONE: Mapping[int, StickyEvent] = {}


class StickyRooms:
    """The sticky events by room. `enabled` is False if this server has none."""

    def __init__(self, *, enabled: bool) -> None:
        self.enabled = enabled
        self._rooms: dict[RoomId, dict[int, StickyEvent]] = {}  # by event_nid
        self._ends: list[tuple[int, RoomId, int]] = []  # (until_ms, room, event_nid)

    def load(self, events: Iterable[tuple[RoomId, StickyEvent]], now_ms: int) -> None:
        """Add stored events. Events that the stream has already brought stay."""
        for room_id, event in events:
            self._add(room_id, event, now_ms)

    def apply(self, rows: Iterable[EventRow], now_ms: int) -> None:
        """Apply rows of the stream `events`."""
        if not self.enabled:
            return
        for row in rows:
            if row.redacts_nid is not None and row.room_id in self._rooms:
                self._rooms[row.room_id].pop(row.redacts_nid, None)
            if row.redacted_by is not None or not any(mark in row.json for mark in _MARKS):
                continue
            until_ms = sticky_until(orjson.loads(row.json), row.origin_server_ts, now_ms)
            if until_ms is not None:
                event = StickyEvent(row.event_nid, row.ordinal, row.writer, row.position, until_ms)
                self._add(row.room_id, event, now_ms)

    def of(self, room_id: RoomId, now_ms: int) -> Collection[StickyEvent]:
        """Return a room's sticky events, in no particular order."""
        if room_id not in self._rooms:
            return ()
        self._expire(now_ms)
        return self._rooms.get(room_id, _NONE).values()

    def rooms(self, now_ms: int) -> Collection[RoomId]:
        """Return the rooms with sticky events."""
        self._expire(now_ms)
        return self._rooms.keys()

    def _add(self, room_id: RoomId, event: StickyEvent, now_ms: int) -> None:
        of_room = self._rooms.setdefault(room_id, {})
        if event.event_nid not in of_room:
            of_room[event.event_nid] = event
            heapq.heappush(self._ends, (event.until_ms, room_id, event.event_nid))
        self._expire(now_ms)

    def _expire(self, now_ms: int) -> None:
        while self._ends and (self._ends[0][0] <= now_ms or len(self._ends) > MAX_EVENTS):
            _, room_id, event_nid = heapq.heappop(self._ends)
            of_room = self._rooms.get(room_id)
            if of_room is None:
                continue
            of_room.pop(event_nid, None)
            if not of_room:
                del self._rooms[room_id]
