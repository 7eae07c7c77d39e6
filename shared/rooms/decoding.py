"""Decoding of many stored events, in slices: one of 64 KiB may take milliseconds."""

from collections.abc import Iterable

from shared.core.room_versions import RoomVersion
from shared.rooms.timeline_event import TimelineEvent, event_from_row
from shared.runtime.slices import Slices
from shared.storage.events.timeline import TimelineRow


async def events_from_rows(version: RoomVersion, rows: Iterable[TimelineRow]) -> list[TimelineEvent]:
    """Return the events of the rows, in their order. Other requests run meanwhile."""
    slices, events = Slices(), []
    for row in rows:
        await slices.rest()
        events.append(event_from_row(version, row))
    return events
