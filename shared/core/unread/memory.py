"""PURE: one user's unread events in one room, kept up from event to event and from receipt to receipt.

    unread = Unread("@a:x")
    unread.fill(found)                    # what Postgres counted up to some event
    unread.roll(rows, end)                # on to a later event
    unread.note_read(None, 17)            # a receipt came: unthreaded, up to the event with ordinal 17
    unread.take_reads(rows)
    unread.counts()

Nothing here grows with the number of unread events. What has been read is a mark: an event counts when it is above the
floor (the user's join, his unthreaded receipts) and above its thread's mark (receipts in that thread, his own events).
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from shared.core.unread.counts import Count, RoomCounts
from shared.core.unread.rows import CountedRow, CountedRows

#: The main timeline, among threads.
MAIN = ""
_NONE = Count(0, 0)
_OBJECT_BYTES = 700
_THREAD_BYTES = 200


def receipt_thread(thread_id: str) -> str | None:
    """Return the thread that a stored receipt is about, as it is named here. thread_id: "" for an unthreaded one."""
    return MAIN if thread_id == "main" else thread_id or None


class BehindMemory(Exception):
    """What is asked for is older than what is in memory: count anew."""


@dataclass(frozen=True, slots=True)
class FoundCounts:
    """What is unread up to the event `at`. marks: of the threads that were read further than the floor.

    group: in which the user is since `group_from`; counts: of threads with unread events.
    highlights: how many of the group's events highlighted in all up to `at`, by thread: of the main timeline, and of
    those threads in which something is unread.
    """

    at: int
    floor: int
    marks: Mapping[str, int]
    group: int
    group_from: int
    counts: Mapping[str, Count]
    highlights: Mapping[str, int]


class Unread:
    """Invariant: once filled, `_counts` holds what is above the marks and not above `at`, for each thread."""

    def __init__(self, user_id: str) -> None:
        self.user_id = user_id
        #: The membership event's place for which it was filled: another one may be a new beginning. None: not filled.
        self.membership: int | None = None
        self.at = 0
        self.group = 0
        self._group_from = 0
        self._floor = 0
        self._marks: dict[str, int] = {}
        self._counts: dict[str, Count] = {}
        self._reads: dict[str | None, int] = {}
        self._totals: list[tuple[int, str, int, int]] = []

    def fill(self, found: FoundCounts, membership: int) -> None:
        """Take in what Postgres counted. Receipts noted meanwhile stay noted."""
        self.membership = membership
        self.at, self.group, self._group_from = found.at, found.group, found.group_from
        self._floor, self._marks = found.floor, dict(found.marks)
        self._counts = dict(found.counts)
        self._totals = [(found.group, thread, found.at, total) for thread, total in found.highlights.items()]

    def take_totals(self) -> list[tuple[int, str, int, int]]:
        """Return, once, what the room's rows can learn of what was filled in: arguments of `CountedRows.learn`."""
        totals, self._totals = self._totals, []
        return totals

    def note_read(self, thread_id: str | None, ordinal: int) -> None:
        """Note a receipt of the user's. thread_id: None for an unthreaded one."""
        self._reads[thread_id] = max(ordinal, self._reads.get(thread_id, 0))

    def mark_of(self, thread_id: str) -> int:
        """Return up to which ordinal the thread has been read."""
        return max(self._floor, self._marks.get(thread_id, 0))

    def counts(self) -> RoomCounts:
        threads = {thread_id: count for thread_id, count in self._counts.items() if thread_id and count != _NONE}
        return RoomCounts(self._counts.get(MAIN, _NONE), threads)

    def roll(self, rows: CountedRows, end: int) -> None:
        """Go on to a later event. Raises BehindMemory; UnknownTotal: then call again once the rows know it."""
        if end <= self.at:
            return
        if not rows.has_from(self.at + 1):
            raise BehindMemory
        for row in rows.between(self.at, end):
            self._add(row)
            self.at = row.ordinal
        self.at = end

    def _add(self, row: CountedRow) -> None:
        group = row.moved.get(self.user_id, self.group)
        count = row.counts_for(self.user_id, group)  # may raise, and so may the next: nothing has changed yet
        for thread_id, back in self._taken_back(row):
            self._change(thread_id, back)
        if group != self.group:
            self.group, self._group_from = group, row.ordinal
        if row.sender == self.user_id:
            self._marks[row.thread_id] = max(row.ordinal, self._marks.get(row.thread_id, 0))
            self._counts.pop(row.thread_id, None)
        elif row.ordinal > self.mark_of(row.thread_id):
            self._change(row.thread_id, count)

    def _taken_back(self, row: CountedRow) -> list[tuple[str, Count]]:
        """Return what a redaction takes back of what is counted here."""
        if any(self.mark_of(thread_id) < ordinal < self._group_from for ordinal, thread_id, *_ in row.redacted):
            raise BehindMemory  # he was in another group then
        return [
            (thread_id, Count(-count.notifications, -count.highlights))
            for ordinal, thread_id, count in row.taken_back(self.user_id, self.group)
            if ordinal > self.mark_of(thread_id)
        ]

    def _change(self, thread_id: str, by: Count) -> None:
        count = self._counts.get(thread_id, _NONE)
        count = Count(count.notifications + by.notifications, count.highlights + by.highlights)
        if count == _NONE:
            self._counts.pop(thread_id, None)
        else:
            self._counts[thread_id] = count

    def take_reads(self, rows: CountedRows) -> None:
        """Let the receipts that were noted count. Raises BehindMemory; UnknownTotal: then call again."""
        for thread_id, ordinal in list(self._reads.items()):
            self._read(thread_id, ordinal, rows)
            del self._reads[thread_id]

    def _read(self, thread_id: str | None, ordinal: int, rows: CountedRows) -> None:
        if thread_id is not None:
            if ordinal > self.mark_of(thread_id):
                left = self._left_of({thread_id} & self._counts.keys(), ordinal, rows)
                self._marks[thread_id] = ordinal
                self._counts = {**self._without({thread_id}), **left}
            return
        if ordinal > self._floor:
            marks = {thread: mark for thread, mark in self._marks.items() if mark > ordinal}
            read = self._counts.keys() - marks.keys()
            left = self._left_of(read, ordinal, rows)
            self._floor, self._marks = ordinal, marks
            self._counts = {**self._without(read), **left}

    def _without(self, threads: Set[str]) -> dict[str, Count]:
        return {thread_id: count for thread_id, count in self._counts.items() if thread_id not in threads}

    def _left_of(self, threads: Set[str], above: int, rows: CountedRows) -> dict[str, Count]:
        """Return what these threads count above an ordinal."""
        if not threads or above >= self.at:
            return {}
        if not rows.has_from(above + 1) or above + 1 < self._group_from:
            raise BehindMemory
        left: dict[str, Count] = {}

        def add(thread_id: str, count: Count, sign: int) -> None:
            former = left.get(thread_id, _NONE)
            left[thread_id] = Count(
                former.notifications + sign * count.notifications, former.highlights + sign * count.highlights
            )

        for row in rows.between(above, self.at):
            if row.thread_id in threads:
                add(row.thread_id, row.counts_for(self.user_id, self.group), 1)
            for ordinal, thread_id, count in row.taken_back(self.user_id, self.group):
                if thread_id in threads and ordinal > above:
                    add(thread_id, count, -1)
        return {thread_id: count for thread_id, count in left.items() if count != _NONE}

    @property
    def size_bytes(self) -> int:
        return _OBJECT_BYTES + _THREAD_BYTES * (len(self._marks) + len(self._counts) + len(self._totals))
