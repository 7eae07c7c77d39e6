"""PURE: events read from Postgres, kept in the form in which clients get them, for who reads the same page next.

What is stored of an event can change (it is redacted, or what it replaced is). So nothing is taken from here but for
the very row that it was made of: what was just read decides, and only the decoding is saved.
"""

from collections import OrderedDict

from shared.core.room_versions import RoomVersion
from shared.rooms.timeline_event import TimelineEvent, event_from_row
from shared.storage.events.timeline import TimelineRow

_ROW_BYTES = 500


class EventMemory:
    """At most so many bytes, estimated; who was read longest ago goes."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._bytes = 0
        self._events: OrderedDict[int, tuple[TimelineRow, TimelineEvent]] = OrderedDict()

    def event(self, version: RoomVersion, row: TimelineRow) -> TimelineEvent:
        """Return the event of a row, as `event_from_row`. It is shared: not to be changed."""
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
