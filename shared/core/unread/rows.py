"""PURE: what a room's latest events counted, and for whom, as the rows of the stream `events` tell it.

A row tells a group's running totals after it; what it counts itself is the difference to the row before it of the same
group and thread. Of the first such row in memory the one before is unknown, until somebody reads that total.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.core.rows import EventRow, PushRedacted
from shared.core.unread.counts import Count

#: The type that is in use between servers for tying forward extremities together; clients ignore it. It goes out in a
#: user's name, who has read nothing by it.
DUMMY = "org.matrix.dummy_event"

_ROW_BYTES = 350
_PART_BYTES = 120  # a group, a user
_KEPT_TOTALS = 500  # groups and threads whose latest total is kept; of any other the next row has to ask for it


class UnknownTotal(Exception):
    """What a group's total in a thread was before an event is not in memory: tell it by `CountedRows.learn`."""

    def __init__(self, group: int, thread_id: str, ordinal: int) -> None:
        super().__init__(group, thread_id, ordinal)
        self.group = group
        self.thread_id = thread_id
        self.ordinal = ordinal


@dataclass(slots=True)
class CountedRow:
    """One event. highlights: 0 or 1 for each group that it notifies; totals: of those groups where that is not known
    yet, how many highlighted up to it. users: what it counts besides. moved: the groups in which users are from this
    event on. redacted: what it took back of others.
    """

    ordinal: int
    thread_id: str
    sender: str
    highlights: dict[int, int]
    totals: dict[int, int]
    users: Mapping[str, Count]
    moved: Mapping[str, int]
    redacted: Sequence[PushRedacted]

    def counts_for(self, user_id: str, group: int) -> Count:
        """Return what it counts for a member of a group. Raises UnknownTotal."""
        own = self.users.get(user_id, Count(0, 0))
        if group in self.highlights:
            return Count(1 + own.notifications, self.highlights[group] + own.highlights)
        if group in self.totals:
            raise UnknownTotal(group, self.thread_id, self.ordinal)
        return own

    def taken_back(self, user_id: str, group: int) -> list[tuple[int, str, Count]]:
        """Return (ordinal, thread, what it had counted for a member of a group) of the events that it redacted."""
        taken = []
        for ordinal, thread_id, groups, users in self.redacted:
            parts = [Count(*count) for one, *count in groups if one == group]
            parts += [Count(*count) for one, *count in users if one == user_id]
            if parts:
                notifications = sum(part.notifications for part in parts)
                taken.append((ordinal, thread_id, Count(notifications, sum(part.highlights for part in parts))))
        return taken

    def concerns(self, user_id: str, group: int) -> bool:
        """Return whether it may have changed the counts of a member of a group."""
        counted = int(group in self.highlights or group in self.totals)
        own = self.users.get(user_id, Count(0, 0))
        return (
            counted + own.notifications != 0
            or own.highlights != 0
            or self.sender == user_id
            or user_id in self.moved
            or bool(self.redacted)  # of what was counted when he was perhaps in another group
        )

    @property
    def size_bytes(self) -> int:
        parts = len(self.highlights) + len(self.totals) + len(self.users) + len(self.moved)
        for _, _, groups, users in self.redacted:
            parts += 1 + len(groups) + len(users)
        return _ROW_BYTES + _PART_BYTES * parts


class CountedRows:
    """Every accepted event from `first_ordinal` to `last_ordinal` is here."""

    def __init__(self, last_ordinal: int) -> None:
        self.first_ordinal = last_ordinal + 1
        self.last_ordinal = last_ordinal
        self._rows: list[CountedRow] = []
        #: How many highlighted so far, by group and thread: those that counted last at the end.
        self._totals: OrderedDict[tuple[int, str], int] = OrderedDict()

    def add(self, row: EventRow, *, accepted: bool) -> int:
        """Take in the next event; one that is not accepted counts nothing. Returns the bytes that it takes."""
        self.last_ordinal = row.ordinal
        if not accepted:
            return 0
        counted = CountedRow(
            row.ordinal, row.thread_id, row.sender, {}, {},
            {user: Count(*count) for user, *count in row.push_users}, dict(row.push_groups), row.push_redacted,
        )  # fmt: skip
        for group, notifies, highlights in row.push:
            before = self._totals.pop((group, row.thread_id), 0 if notifies == 1 else None)
            if before is None:
                counted.totals[group] = highlights
            else:
                counted.highlights[group] = highlights - before
            self._totals[group, row.thread_id] = highlights
        while len(self._totals) > _KEPT_TOTALS:
            self._totals.popitem(last=False)
        self._rows.append(counted)
        return counted.size_bytes

    def learn(self, group: int, thread_id: str, ordinal: int, highlights: int) -> None:
        """Take in how many of a group's events in a thread highlighted up to an ordinal, as Postgres has it."""
        if ordinal < self.first_ordinal - 1:
            return
        for row in self.between(ordinal, self.last_ordinal):
            if row.thread_id == thread_id and group in row.highlights:
                return
            if row.thread_id == thread_id and group in row.totals:
                row.highlights[group] = row.totals.pop(group) - highlights
                return
        self._totals.setdefault((group, thread_id), highlights)

    def trim(self, first_ordinal: int) -> int:
        """Forget what is before an ordinal. Returns the bytes that it took."""
        place = bisect_left(self._rows, first_ordinal, key=_ordinal)
        freed = sum(row.size_bytes for row in self._rows[:place])
        del self._rows[:place]
        self.first_ordinal = max(self.first_ordinal, first_ordinal)
        return freed

    def has_from(self, ordinal: int) -> bool:
        """Return whether everything from an ordinal (inclusive) on is here."""
        return self.first_ordinal <= ordinal

    def between(self, above: int, up_to: int) -> Sequence[CountedRow]:
        """Return the events with ordinals above one and up to another (inclusive), as far as they are here."""
        start = bisect_left(self._rows, above + 1, key=_ordinal)
        end = bisect_left(self._rows, up_to + 1, key=_ordinal)
        return self._rows[start:end]


def _ordinal(row: CountedRow) -> int:
    return row.ordinal
