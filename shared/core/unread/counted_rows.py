"""The unread counts of a room's latest events, from the rows of the stream `events`.

A row has a group's running totals after its event. The event's own counts are the difference from the previous row of
the same group and thread. For the first such row in memory the previous total is unknown until it is read from storage.
"""

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.core.rows import NO_DEVICE, EventRow, PushRedacted
from shared.core.unread.counts import Count

#: The event type with which servers tie forward extremities together. Clients ignore it. It is sent in a user's name,
#: but that user has read nothing by it.
DUMMY = "org.matrix.dummy_event"

_ROW_BYTES = 350
_PART_BYTES = 120  # per group or user
_TOTAL_BYTES = 350  # with its thread id, which may have 255 bytes
_KEPT_TOTALS = 500  # groups and threads whose latest total is kept; for any other the next row needs a query


_NOBODY = UserId("")


class UnknownTotal(Exception):
    """A group's total in a thread before an event is not in memory. `CountedRows.set_total` takes it."""

    def __init__(self, group: int, thread_id: str, ordinal: int) -> None:
        super().__init__(group, thread_id, ordinal)
        self.group = group
        self.thread_id = thread_id
        self.ordinal = ordinal


@dataclass(slots=True, kw_only=True)
class CountedRow:
    """The counts of one event.

    sender: the user who has read up to this event by sending it; "" if the server sent it for them.
    highlights: 0 or 1 for each group that the event notifies.
    totals: the running total of highlights after the event, for groups whose previous total is unknown.
    users: counts of single users on top of their group.
    group_changes: the new group of users whose group changes with this event.
    redacted: the counts of other events that this redaction takes back.
    """

    ordinal: int
    thread_id: str
    sender: UserId
    highlights: dict[int, int]
    totals: dict[int, int]
    users: Mapping[str, Count]
    group_changes: Mapping[str, int]
    redacted: Sequence[PushRedacted]

    def counts_for(self, user_id: UserId, group: int) -> Count:
        """Return the event's counts for a member of a group. Raises UnknownTotal."""
        own = self.users.get(user_id, Count(0, 0))
        if group in self.highlights:
            return Count(1 + own.notifications, self.highlights[group] + own.highlights)
        if group in self.totals:
            raise UnknownTotal(group, self.thread_id, self.ordinal)
        return own

    def taken_back(self, user_id: UserId, group: int) -> list[tuple[int, str, Count]]:
        """Return (ordinal, thread, former counts for a member of a group) of each event that this one redacted."""
        taken = []
        for ordinal, thread_id, groups, users in self.redacted:
            parts = [Count(*count) for one, *count in groups if one == group]
            parts += [Count(*count) for one, *count in users if one == user_id]
            if parts:
                notifications = sum(part.notifications for part in parts)
                taken.append((ordinal, thread_id, Count(notifications, sum(part.highlights for part in parts))))
        return taken

    def concerns(self, user_id: UserId, group: int) -> bool:
        """Return True if the event may have changed the counts of a member of a group."""
        counted = int(group in self.highlights or group in self.totals)
        own = self.users.get(user_id, Count(0, 0))
        return (
            counted + own.notifications != 0
            or own.highlights != 0
            or self.sender == user_id
            or user_id in self.group_changes
            or bool(self.redacted)  # the redacted event may have counted while the user was in another group
        )

    @property
    def size_bytes(self) -> int:
        parts = len(self.highlights) + len(self.totals) + len(self.users) + len(self.group_changes)
        for _, _, groups, users in self.redacted:
            parts += 1 + len(groups) + len(users)
        return _ROW_BYTES + _PART_BYTES * parts


class CountedRows:
    """The counts of a room's accepted events. All events from `first_ordinal` to `last_ordinal` are here."""

    def __init__(self, last_ordinal: int) -> None:
        self.first_ordinal = last_ordinal + 1
        self.last_ordinal = last_ordinal
        self._rows: list[CountedRow] = []
        self._rows_bytes = 0
        #: The running total of highlights by group and thread, least recently counted first.
        self._totals: OrderedDict[tuple[int, str], int] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """The memory that it takes."""
        return self._rows_bytes + _TOTAL_BYTES * len(self._totals)

    def add(self, row: EventRow, *, accepted: bool) -> None:
        """Add the next event. An event that is not accepted counts nothing."""
        self.last_ordinal = row.ordinal
        if not accepted:
            return
        counted = CountedRow(
            ordinal=row.ordinal,
            thread_id=row.thread_id,
            sender=_NOBODY if row.txn_device == NO_DEVICE else row.sender,
            highlights={},
            totals={},
            users={user: Count(*count) for user, *count in row.push_users},
            group_changes=dict(row.push_groups),
            redacted=row.push_redacted,
        )
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
        self._rows_bytes += counted.size_bytes

    def set_total(self, group: int, thread_id: str, ordinal: int, highlights: int) -> None:
        """Set a group's total of highlights in a thread up to an ordinal, as Postgres has it."""
        if ordinal < self.first_ordinal - 1:
            return
        for row in self.between(ordinal, self.last_ordinal):
            if row.thread_id == thread_id and group in row.highlights:
                return
            if row.thread_id == thread_id and group in row.totals:
                row.highlights[group] = row.totals.pop(group) - highlights
                return
        self._totals.setdefault((group, thread_id), highlights)

    def trim(self, first_ordinal: int) -> None:
        """Evict the events before an ordinal."""
        place = bisect_left(self._rows, first_ordinal, key=_ordinal)
        self._rows_bytes -= sum(row.size_bytes for row in self._rows[:place])
        del self._rows[:place]
        self.first_ordinal = max(self.first_ordinal, first_ordinal)

    def has_from(self, ordinal: int) -> bool:
        """Return True if all events from an ordinal (inclusive) on are here."""
        return self.first_ordinal <= ordinal

    def between(self, above: int, up_to: int) -> Sequence[CountedRow]:
        """Return the events here with ordinals above `above` and up to `up_to` (inclusive)."""
        start = bisect_left(self._rows, above + 1, key=_ordinal)
        end = bisect_left(self._rows, up_to + 1, key=_ordinal)
        return self._rows[start:end]


def _ordinal(row: CountedRow) -> int:
    return row.ordinal
