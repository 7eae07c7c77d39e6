"""PURE: a cache of decoded events, for readers of the same page of history.

A stored event can change: it is redacted, or the event that it replaced is. So a lookup takes the row that was just
read, and finds only an event decoded from an equal row. The cache saves the decoding, not the read.
"""

from collections import OrderedDict

from shared.core.room_versions import RoomVersion
from shared.rooms.timeline_event import TimelineEvent, event_from_row
from shared.storage.events.timeline import TimelineRow

_ROW_BYTES = 500


class EventMemory:
    """Decoded events, evicted least recently used first."""

    def __init__(self, budget_bytes: int) -> None:
        """budget_bytes: the limit of the estimated size."""
        self._budget = budget_bytes
        self._bytes = 0
        self._events: OrderedDict[int, tuple[TimelineRow, TimelineEvent]] = OrderedDict()

    def event(self, version: RoomVersion, row: TimelineRow) -> TimelineEvent:
        """Return the event of a row, as `event_from_row` does. It is shared, so callers must not change it."""
        known = self._events.get(row.event_nid)
        if known is not None:
            if known[0] == row:
                self._events.move_to_end(row.event_nid)
                return known[1]
            self._forget(row.event_nid)
        event = event_from_row(version, row)
        self._events[row.event_nid] = row, event
        self._bytes += _size(row, event)
        while self._bytes > self._budget:
            self._forget(next(iter(self._events)))
        return event

    def _forget(self, event_nid: int) -> None:
        self._bytes -= _size(*self._events.pop(event_nid))


def _size(row: TimelineRow, event: TimelineEvent) -> int:
    others = len(row.redaction_json or b"") + len(row.previous_json or b"")
    return _ROW_BYTES + len(row.json) + others + event.size_bytes
