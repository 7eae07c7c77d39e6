"""Pages of the part of a room's timeline that a user may see, in either direction, live events and history together."""

from collections.abc import Callable, Set
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from shared.core.canonical_json import decode_json
from shared.core.errors import MatrixError
from shared.core.filters import EventFilter, parse_room_event_filter
from shared.core.history_point import START, HistoryPoint, gap_start, point_after
from shared.rooms.event_memory import EventMemory
from shared.rooms.room_view import RoomView, load_branches
from shared.rooms.shown_event import matches
from shared.rooms.timeline_event import TimelineEvent
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import PageRows, RoomRecord, TimelineRow, get_gap_anchors, get_page

_PAGE = 100
_MAX_PAGES = 5  # read for one answer; the client continues from its end
_MAX_FILLS = 5  # gaps tried for one answer, since each may need requests to other servers


class Filled(Enum):
    """The outcome of asking for the events in a gap."""

    MORE = 1  # there are more events than before: the caller reads the page again
    NO_MORE = 2  # nobody has more: the caller continues with the older events on the far side of the gap
    NOT_NOW = 3  # asking failed and may succeed later: the page ends before the gap, and the client may come back


class HistorySource(Protocol):
    async def fill(self, room: RoomRecord, anchor: int) -> Filled:
        """Fetch events missing before the live event `anchor`, or before the stored history in that gap."""
        ...


class StoredHistory:
    """The stored history only. No other server is asked."""

    async def fill(self, room: RoomRecord, anchor: int) -> Filled:
        return Filled.NO_MORE


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a room's timeline. The events are shared with other answers, so callers must not change them."""

    events: list[TimelineEvent]  # in the direction of reading
    next_point: HistoryPoint
    more: bool  # True if there is a next page
    parents: Set[int]  # the numbers of the events that have bundled children
    erased: bool  # True if some events may need their redacted form (`erased_events.py`)


class _Read:
    """The events read so far for one page."""

    def __init__(self) -> None:
        self.events: list[TimelineEvent] = []
        self._parents: set[int] = set()
        self._erased = False

    def note(self, rows: PageRows) -> None:
        self._parents |= rows.parents
        self._erased = self._erased or rows.erased

    def page(self, point: HistoryPoint, *, more: bool) -> Page:
        return Page(self.events, point, more, self._parents, self._erased)


def parse_event_filter(text: str | None) -> EventFilter:
    """Return the RoomEventFilter of a query parameter. Raises M_NOT_JSON, M_BAD_JSON."""
    if not text:
        return EventFilter()
    try:
        return parse_room_event_filter(decode_json(text.encode()))
    except UnicodeEncodeError as error:
        raise MatrixError("M_NOT_JSON", "The filter is not valid text") from error


def passes(room: RoomView, wanted: EventFilter) -> Callable[[TimelineEvent], bool]:
    """Return a function that is True for the events to show."""
    return lambda event: matches(wanted, event, room.room_id) and room.shows(event)


class HistoryPages:
    """Reads pages. A page that goes backwards into a gap asks the source for the missing events."""

    def __init__(self, database: Database, source: HistorySource, memory_bytes: int = 1 << 20) -> None:
        """memory_bytes: the size of the cache of decoded events."""
        self._database = database
        self._source = source
        self._memory = EventMemory(memory_bytes)

    async def back(
        self, room: RoomView, point: HistoryPoint, limit: int, wanted: EventFilter, *, stop: HistoryPoint = START
    ) -> Page:
        """Return at most `limit` events before a point, latest first. stop: the page ends there."""
        shows = passes(room, wanted)
        point, stop = min(point, room.end_point), max(stop, room.start_point)
        size = _page_size(limit, wanted)
        gaps = _Gaps(self._database, self._source, room)
        read, slices = _Read(), Slices()
        found = read.events
        for _ in range(_MAX_PAGES):
            if point <= stop or len(found) >= limit:
                break
            rows = await self._rows(read, room, point, size, forward=False)
            ends = len(rows) < size
            await gaps.look_ahead(stop if ends else rows[-1].point, point)
            state = _Crossing.DONE
            cut = bool(rows) and rows[-1].point < stop
            for row in rows:
                if gaps.ahead:
                    point, state = await gaps.cross(point, max(stop, point_after(row.point)))
                    if state is not _Crossing.DONE:
                        break
                    point = row.point
                if cut and row.point < stop:
                    return read.page(stop, more=False)
                await slices.rest()
                event = self._memory.event(room.version, row)
                if shows(event):
                    found.append(event)
                    if len(found) >= limit:
                        point = row.point
                        break
            else:
                point = rows[-1].point if rows else point
                if ends:
                    point, state = await gaps.cross(point, stop)
                    if state is _Crossing.DONE:
                        return read.page(stop, more=False)
            if state is _Crossing.STOPPED:
                break
        return read.page(point, more=point > stop)

    async def forward(
        self, room: RoomView, point: HistoryPoint, limit: int, wanted: EventFilter, *, stop: HistoryPoint | None = None
    ) -> Page:
        """Return at most `limit` events from a point on, earliest first. stop: the page ends before it."""
        shows = passes(room, wanted)
        end = room.end_point if stop is None else min(room.end_point, stop)
        size = _page_size(limit, wanted)
        read, slices = _Read(), Slices()
        found = read.events
        for _ in range(_MAX_PAGES):
            if point >= end or len(found) >= limit:
                break
            rows = await self._rows(read, room, point, size, forward=True)
            cut = bool(rows) and rows[-1].point >= end
            for row in rows:
                if cut and row.point >= end:
                    return read.page(end, more=False)
                await slices.rest()
                event = self._memory.event(room.version, row)
                if shows(event):
                    found.append(event)
                    if len(found) >= limit:
                        point = point_after(row.point)
                        break
            else:
                if len(rows) < size:
                    return read.page(end, more=False)
                point = point_after(rows[-1].point)
        return read.page(point, more=point < end)

    async def _rows(
        self, read: _Read, room: RoomView, point: HistoryPoint, size: int, *, forward: bool
    ) -> list[TimelineRow]:
        history = room.record.last_anchor is not None
        page = await get_page(self._database, room.room_nid, point, size, forward=forward, history=history)
        read.note(page)
        await load_branches(self._database, room, page.rows)
        return page.rows


class _Crossing(Enum):
    DONE = 1  # all gaps up to the point were tried
    FILLED = 2  # there are new events since the rows were read
    STOPPED = 3  # the page ends here: it has tried its number of gaps, or the gap cannot be filled now


class _Gaps:
    """The gaps on the way of a page that goes back."""

    def __init__(self, database: Database, source: HistorySource, room: RoomView) -> None:
        self._database = database
        self._source = source
        self._room = room
        self._refused: set[int] = set()
        self._left = _MAX_FILLS
        self.ahead: list[int] = []  # anchors of gaps that were not tried yet, latest first

    async def look_ahead(self, low: HistoryPoint, point: HistoryPoint) -> None:
        """Find the gaps between two points. Ordinals are dense, so a page has at most one gap per live event."""
        if self._room.record.last_anchor is None:
            return
        anchors = await get_gap_anchors(self._database, self._room.room_nid, low.ordinal, point.ordinal, _PAGE + 1)
        self.ahead = [anchor for anchor in anchors if gap_start(anchor) < point and anchor not in self._refused]

    async def cross(self, point: HistoryPoint, low: HistoryPoint) -> tuple[HistoryPoint, _Crossing]:
        """Try the gaps whose open edge lies between `low` and `point`, going back. Return the point reached.

        The point moves to the far side of a gap that nobody can fill, so that no later page tries it again. It stays
        before a gap that cannot be filled now.
        """
        while self.ahead and gap_start(self.ahead[0]) >= low:
            if not self._left:
                return point, _Crossing.STOPPED
            self._left -= 1
            anchor = self.ahead.pop(0)
            filled = await self._source.fill(self._room.record, anchor)
            if filled is not Filled.NO_MORE:
                return point, _Crossing.FILLED if filled is Filled.MORE else _Crossing.STOPPED
            self._refused.add(anchor)
            point = gap_start(anchor)
        return point, _Crossing.DONE


def _page_size(limit: int, wanted: EventFilter) -> int:
    # Without a filter nearly every event passes, so reading more than the limit is wasted.
    return min(_PAGE, max(limit, 1)) if wanted.passes_all else _PAGE
