"""Sticky events (MSC4354). A process reads them once, when it begins, and then follows the stream of events."""

from dataclasses import dataclass

from shared.core.identifiers import RoomId
from shared.storage.engine.pool import Source

#: Uses sticky_events_by_end and the primary key of rooms. Those that end last come first, in case there are too many.
_UNEXPIRED = """
    SELECT r.room_id, s.event_nid, s.ordinal, s.writer, s.position, s.until_ms
    FROM sticky_events s JOIN rooms r USING (room_nid)
    WHERE s.until_ms > $1 ORDER BY s.until_ms DESC LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class StickyEvent:
    """A sticky event. until_ms: the time at which it ceases to be sticky."""

    event_nid: int
    ordinal: int
    writer: int
    position: int
    until_ms: int


async def get_sticky_events(source: Source, now_ms: int, limit: int) -> list[tuple[RoomId, StickyEvent]]:
    """Return (room id, event) of the sticky events that have not expired."""
    return [(row[0], StickyEvent(*row[1:])) for row in await source.fetch(_UNEXPIRED, now_ms, limit)]
