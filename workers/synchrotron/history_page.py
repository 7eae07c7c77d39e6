"""Paging through what a user may see of a room, in either direction."""

from collections.abc import Callable
from dataclasses import dataclass

from shared.core.canonical_json import decode_json
from shared.core.errors import MatrixError
from shared.core.filters import EventFilter, parse_room_event_filter
from shared.storage.pool import Database
from shared.storage.read_timeline import get_timeline_before, get_timeline_from
from workers.synchrotron.room_view import RoomView
from workers.synchrotron.shown_event import matches
from workers.synchrotron.timeline_event import TimelineEvent

_PAGE = 100
_MAX_PAGES = 5  # looked through for one answer; the client asks on from where we stopped


@dataclass(frozen=True, slots=True)
class Page:
    """events: in the direction of reading. place: where to read on; more: whether there is anything."""

    events: list[TimelineEvent]
    place: int
    more: bool


def parse_event_filter(text: str | None) -> EventFilter:
    """Return the RoomEventFilter of a query parameter. Raises M_NOT_JSON, M_BAD_JSON."""
    if not text:
        return EventFilter()
    try:
        return parse_room_event_filter(decode_json(text.encode()))
    except UnicodeEncodeError as error:
        raise MatrixError("M_NOT_JSON", "The filter is not valid text") from error


def passes(room: RoomView, wanted: EventFilter) -> Callable[[TimelineEvent], bool]:
    """Return what decides whether an event is shown."""
    return lambda event: matches(wanted, event, room.room_id) and room.view.may_see(event)


async def page_back(
    database: Database, room: RoomView, place: int, limit: int, wanted: EventFilter, *, stop: int = 1
) -> Page:
    """Return at most `limit` events before a place, latest first. stop: none with a lower ordinal."""
    shows = passes(room, wanted)
    place = min(place, room.end + 1)
    found: list[TimelineEvent] = []
    for _ in range(_MAX_PAGES):
        if place <= stop or len(found) >= limit:
            break
        rows = await get_timeline_before(database, room.room_nid, place, _page_size(limit, wanted))
        for row in rows:
            if row.ordinal < stop:
                return Page(found, stop, more=False)
            event = room.event(row)
            place = row.ordinal
            if shows(event):
                found.append(event)
                if len(found) >= limit:
                    break
        else:
            if len(rows) < _page_size(limit, wanted):
                return Page(found, stop, more=False)
    return Page(found, place, more=place > max(stop, 1))


async def page_forward(
    database: Database,
    room: RoomView,
    place: int,
    limit: int,
    wanted: EventFilter,
    *,
    stop: int | None = None,
) -> Page:
    """Return at most `limit` events from a place on, earliest first. stop: none from this ordinal on."""
    shows = passes(room, wanted)
    end = room.end if stop is None else min(room.end, stop - 1)
    found: list[TimelineEvent] = []
    for _ in range(_MAX_PAGES):
        if place > end or len(found) >= limit:
            break
        size = _page_size(limit, wanted)
        rows = await get_timeline_from(database, room.room_nid, place, size)
        for row in rows:
            if row.ordinal > end:
                return Page(found, end + 1, more=False)
            event = room.event(row)
            place = row.ordinal + 1
            if shows(event):
                found.append(event)
                if len(found) >= limit:
                    break
        else:
            if len(rows) < size:
                return Page(found, end + 1, more=False)
    return Page(found, place, more=place <= end)


def _page_size(limit: int, wanted: EventFilter) -> int:
    # Without a filter nearly everything passes: read no more than is asked for.
    return min(_PAGE, max(limit, 1)) if wanted.passes_all else _PAGE
