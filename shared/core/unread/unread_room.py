"""One user's unread events in one room, updated from event to event and from receipt to receipt.

    unread = UnreadRoom("@a:x")
    unread.load(snapshot)                 # as Postgres counted up to some event
    unread.advance(rows, end)                # to a later event
    unread.note_receipt(None, 17)            # an unthreaded receipt, up to the event with ordinal 17
    unread.apply_receipts(rows)
    unread.counts()

Nothing here grows with the number of unread events. Read events are below a mark: an event counts if it is above the
floor (the user's join, their unthreaded receipts) and above its thread's mark (receipts in that thread, the user's own
events).
"""

from collections.abc import Mapping, Set
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.core.unread.counted_rows import CountedRow, CountedRows
from shared.core.unread.counts import Count, RoomCounts

#: The thread id of the main timeline.
MAIN = ""
_NONE = Count(0, 0)
_OBJECT_BYTES = 700
_THREAD_BYTES = 340  # with the thread's id, which may have 255 bytes


def receipt_thread(thread_id: str) -> str | None:
    """Return the thread id, as used here, of a stored receipt. thread_id: "" for an unthreaded one."""
    return MAIN if thread_id == "main" else thread_id or None


class NotInMemory(Exception):
    """The rows in memory do not go back far enough. The counts must be read from storage again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadSnapshot:
    """A user's unread events in a room, as counted in storage.

    at: the ordinal of the last counted event.
    floor: the ordinal up to which everything is read.
    marks: by thread, for threads that were read beyond the floor.
    group: the user's group since `group_from`.
    counts: by thread, for threads with unread events.
    highlights: by thread, all highlights of the group up to `at`. It has the main timeline, and threads with unread
        events.
    """

    at: int
    floor: int
    marks: Mapping[str, int]
    group: int
    group_from: int
    counts: Mapping[str, Count]
    highlights: Mapping[str, int]


class UnreadRoom:
    """The unread counts of one user in one room.

    Invariant: once loaded, `_counts` has each thread's counts of events above the marks and up to `at`.
    """

    def __init__(self, user_id: UserId) -> None:
        self.user_id = user_id
        #: The ordinal of the membership event for which this was loaded, else None. Another one may be a new join.
        self.membership: int | None = None
        self.at = 0
        self.group = 0
        self._group_from = 0
        self._floor = 0
        self._marks: dict[str, int] = {}
        self._counts: dict[str, Count] = {}
        self._reads: dict[str | None, int] = {}
        self._totals: list[tuple[int, str, int, int]] = []

    def load(self, snapshot: UnreadSnapshot, membership: int) -> None:
        """Take the counts from storage. Receipts noted in the meantime stay noted."""
        self.membership = membership
        self.at, self.group, self._group_from = snapshot.at, snapshot.group, snapshot.group_from
        self._floor, self._marks = snapshot.floor, dict(snapshot.marks)
        self._counts = dict(snapshot.counts)
        self._totals = [(snapshot.group, thread, snapshot.at, total) for thread, total in snapshot.highlights.items()]

    def pop_totals(self) -> list[tuple[int, str, int, int]]:
        """Return and clear the totals that came with the snapshot, as arguments of `CountedRows.set_total`."""
        totals, self._totals = self._totals, []
        return totals

    def note_receipt(self, thread_id: str | None, ordinal: int) -> None:
        """Note a receipt of the user. thread_id: None for an unthreaded one."""
        self._reads[thread_id] = max(ordinal, self._reads.get(thread_id, 0))

    def read_mark(self, thread_id: str) -> int:
        """Return the ordinal up to which the thread is read."""
        return max(self._floor, self._marks.get(thread_id, 0))

    def counts(self) -> RoomCounts:
        threads = {thread_id: count for thread_id, count in self._counts.items() if thread_id and count != _NONE}
        return RoomCounts(self._counts.get(MAIN, _NONE), threads)

    def advance(self, rows: CountedRows, end: int) -> None:
        """Count the events up to a later one. Raises NotInMemory; UnknownTotal, to be called again with the total."""
        if end <= self.at:
            return
        if not rows.has_from(self.at + 1):
            raise NotInMemory
        for row in rows.between(self.at, end):
            self._add(row)
            self.at = row.ordinal
        self.at = end

    def _add(self, row: CountedRow) -> None:
        group = row.group_changes.get(self.user_id, self.group)
        count = row.counts_for(self.user_id, group)  # this and the next call may raise: nothing has changed yet
        for thread_id, back in self._taken_back(row):
            self._change(thread_id, back)
        if group != self.group:
            self.group, self._group_from = group, row.ordinal
        if row.sender == self.user_id:
            self._marks[row.thread_id] = max(row.ordinal, self._marks.get(row.thread_id, 0))
            self._counts.pop(row.thread_id, None)
        elif row.ordinal > self.read_mark(row.thread_id):
            self._change(row.thread_id, count)

    def _taken_back(self, row: CountedRow) -> list[tuple[str, Count]]:
        """Return the counts, held here, that a redaction takes back."""
        if any(self.read_mark(thread_id) < ordinal < self._group_from for ordinal, thread_id, *_ in row.redacted):
            raise NotInMemory  # the user was in another group then
        return [
            (thread_id, Count(-count.notifications, -count.highlights))
            for ordinal, thread_id, count in row.taken_back(self.user_id, self.group)
            if ordinal > self.read_mark(thread_id)
        ]

    def _change(self, thread_id: str, by: Count) -> None:
        count = self._counts.get(thread_id, _NONE)
        count = Count(count.notifications + by.notifications, count.highlights + by.highlights)
        if count == _NONE:
            self._counts.pop(thread_id, None)
        else:
            self._counts[thread_id] = count

    def apply_receipts(self, rows: CountedRows) -> None:
        """Apply the receipts noted so far. Raises NotInMemory; UnknownTotal, to be called again with the total."""
        for thread_id, ordinal in list(self._reads.items()):
            self._read(thread_id, ordinal, rows)
            del self._reads[thread_id]

    def _read(self, thread_id: str | None, ordinal: int, rows: CountedRows) -> None:
        if thread_id is not None:
            if ordinal > self.read_mark(thread_id):
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
        """Return the counts of these threads above an ordinal."""
        if not threads or above >= self.at:
            return {}
        if not rows.has_from(above + 1) or above + 1 < self._group_from:
            raise NotInMemory
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
        threads = len(self._marks) + len(self._counts) + len(self._totals) + len(self._reads)
        return _OBJECT_BYTES + _THREAD_BYTES * threads
