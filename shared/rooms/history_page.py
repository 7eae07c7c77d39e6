"""Paging through what a user may see of a room, in either direction: live events and history in one order."""

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
from shared.storage.engine.pool import Database
from shared.storage.events.timeline import PageRows, RoomRecord, TimelineRow, get_gap_anchors, get_page

_PAGE = 100
_MAX_PAGES = 5  # looked through for one answer; the client asks on from where we stopped
_MAX_FILLS = 5  # gaps tried for one answer, for the same reason: each may ask other servers


class HistorySource(Protocol):
    async def fill(self, room: RoomRecord, anchor: int) -> bool:
        """Fetch events that are missing just before live event `anchor`, or before the history that we have there.

        Return whether there are more now than before: the page is then read on from where it was. When there are not,
        it goes on behind the gap, to the older events that we do have.
        """
        ...


class StoredHistory:
    """There is no more than what is stored: no other server is asked."""

    async def fill(self, room: RoomRecord, anchor: int) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Page:
    """events: in the direction of reading, shared with other answers: not to be changed.

    place: where to read on; more: whether there is anything. parents: numbers of those to which something relates that
    is summed up. erased: whether any of them may have to be shown in its redacted form (`erased_events.py`).
    """

    events: list[TimelineEvent]
    place: HistoryPoint
    more: bool
    parents: Set[int]
    erased: bool


class _Read:
    """What was read so far for one page."""

    def __init__(self) -> None:
        self.events: list[TimelineEvent] = []
        self._parents: set[int] = set()
        self._erased = False

    def note(self, rows: PageRows) -> None:
        self._parents |= rows.parents
        self._erased = self._erased or rows.erased

    def page(self, place: HistoryPoint, *, more: bool) -> Page:
        return Page(self.events, place, more, self._parents, self._erased)


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
    return lambda event: matches(wanted, event, room.room_id) and room.shows(event)


class HistoryPages:
    """source: what is asked for more where a page going back comes to a gap. memory_bytes: for events decoded once."""

    def __init__(self, database: Database, source: HistorySource, memory_bytes: int = 1 << 20) -> None:
        self._database = database
        self._source = source
        self._memory = EventMemory(memory_bytes)

    async def back(
        self, room: RoomView, place: HistoryPoint, limit: int, wanted: EventFilter, *, stop: HistoryPoint = START
    ) -> Page:
        """Return at most `limit` events before a place, latest first. stop: none before it."""
        shows = passes(room, wanted)
        place, stop = min(place, room.end_place), max(stop, room.start_place)
        size = _page_size(limit, wanted)
        gaps = _Gaps(self._database, self._source, room)
        read = _Read()
        found = read.events
        for _ in range(_MAX_PAGES):
            if place <= stop or len(found) >= limit:
                break
            rows = await self._rows(read, room, place, size, forward=False)
            ends = len(rows) < size
            await gaps.look_ahead(stop if ends else rows[-1].place, place)
            state = _Crossing.DONE
            cut = bool(rows) and rows[-1].place < stop
            for row in rows:
                if gaps.ahead:
                    place, state = await gaps.cross(place, max(stop, point_after(row.place)))
                    if state is not _Crossing.DONE:
                        break
                    place = row.place
                if cut and row.place < stop:
                    return read.page(stop, more=False)
                event = self._memory.event(room.version, row)
                if shows(event):
                    found.append(event)
                    if len(found) >= limit:
                        place = row.place
                        break
            else:
                place = rows[-1].place if rows else place
                if ends:
                    place, state = await gaps.cross(place, stop)
                    if state is _Crossing.DONE:
                        return read.page(stop, more=False)
            if state is _Crossing.ENOUGH:
                break
        return read.page(place, more=place > stop)

    async def forward(
        self, room: RoomView, place: HistoryPoint, limit: int, wanted: EventFilter, *, stop: HistoryPoint | None = None
    ) -> Page:
        """Return at most `limit` events from a place on, earliest first. stop: none from there on."""
        shows = passes(room, wanted)
        end = room.end_place if stop is None else min(room.end_place, stop)
        size = _page_size(limit, wanted)
        read = _Read()
        found = read.events
        for _ in range(_MAX_PAGES):
            if place >= end or len(found) >= limit:
                break
            rows = await self._rows(read, room, place, size, forward=True)
            cut = bool(rows) and rows[-1].place >= end
            for row in rows:
                if cut and row.place >= end:
                    return read.page(end, more=False)
                event = self._memory.event(room.version, row)
                if shows(event):
                    found.append(event)
                    if len(found) >= limit:
                        place = point_after(row.place)
                        break
            else:
                if len(rows) < size:
                    return read.page(end, more=False)
                place = point_after(rows[-1].place)
        return read.page(place, more=place < end)

    async def _rows(
        self, read: _Read, room: RoomView, place: HistoryPoint, size: int, *, forward: bool
    ) -> list[TimelineRow]:
        history = room.record.last_anchor is not None
        page = await get_page(self._database, room.room_nid, place, size, forward=forward, history=history)
        read.note(page)
        await load_branches(self._database, room, page.rows)
        return page.rows


class _Crossing(Enum):
    DONE = 1  # nothing more to be had from the gaps on the way
    FILLED = 2  # there are events now that were not there when the rows were read
    ENOUGH = 3  # no more gaps for this answer


class _Gaps:
    """The gaps that a page going back comes to. ahead: those before the place reached, not tried yet, latest first."""

    def __init__(self, database: Database, source: HistorySource, room: RoomView) -> None:
        self._database = database
        self._source = source
        self._room = room
        self._refused: set[int] = set()
        self._left = _MAX_FILLS
        self.ahead: list[int] = []

    async def look_ahead(self, low: HistoryPoint, place: HistoryPoint) -> None:
        """Look for gaps between two places. Ordinals are dense: a page has few more gaps than live events."""
        if self._room.record.last_anchor is None:
            return
        anchors = await get_gap_anchors(self._database, self._room.room_nid, low.ordinal, place.ordinal, _PAGE + 1)
        self.ahead = [anchor for anchor in anchors if gap_start(anchor) < place and anchor not in self._refused]

    async def cross(self, place: HistoryPoint, low: HistoryPoint) -> tuple[HistoryPoint, _Crossing]:
        """Try the gaps whose open edge lies from `low` on, going back; return how far that came.

        `place` moves to the far side of a gap that nobody can fill, so that no later page tries it again.
        """
        while self.ahead and gap_start(self.ahead[0]) >= low:
            if not self._left:
                return place, _Crossing.ENOUGH
            self._left -= 1
            anchor = self.ahead.pop(0)
            if await self._source.fill(self._room.record, anchor):
                return place, _Crossing.FILLED
            self._refused.add(anchor)
            place = gap_start(anchor)
        return place, _Crossing.DONE


def _page_size(limit: int, wanted: EventFilter) -> int:
    # Without a filter nearly everything passes: read no more than is asked for.
    return min(_PAGE, max(limit, 1)) if wanted.passes_all else _PAGE
