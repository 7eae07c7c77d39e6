"""PURE: one active room in memory, kept up to date by the rows of the stream `events`.

Invariants:
- `events` are the room's latest events with ascending ordinals. Every accepted event from `first_ordinal` to
  `last_ordinal` is among them.
- `changes` are all changes of the state from `changes_from` to `last_ordinal`, in order. In a room without forks they
  are the state events of the timeline. State resolution may change several keys at one ordinal, to events from
  elsewhere or to nothing, and a state event may change nothing.
- `state` is the room state after `last_ordinal`: all keys but m.room.member, and some or all member events. With
  `members_complete`, a member event that is absent here is absent from the state.
- The chain of `previous` from an entry of `state` gives the earlier values of its key, back to `changes_from`.
- `size_bytes` counts each event once, however many places have it: the timeline, and entries that are in `state`, in
  `changes`, or before one of `changes`. An entry that was replaced is counted until its successor leaves `changes`.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shared.cache.sizes import text_size
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import RoomVersion, get_room_version
from shared.core.rows import EventRow
from shared.core.unread import DUMMY, CountedRows
from shared.rooms.timeline_event import (
    HISTORY_VISIBILITY,
    MEMBER,
    Redaction,
    TimelineEvent,
    event_from_stream,
)
from shared.storage.rooms.memberships import SummaryRecord
from shared.storage.user_data.receipts import ReceiptRecord

StateKey = tuple[str, str]
#: Measured with tracemalloc.
_ROOM_BYTES = 4_000  # an empty room's objects
_RECEIPT_BYTES = 470  # without the texts
_ENTRY_BYTES = 300
_VISIBILITY_BYTES = 130  # of a change of the history visibility
#: A room without forks has at most as many as events. State resolution may change thousands of keys at once; the older
#: half is then dropped and read from Postgres when needed.
MAX_CHANGES = 1000


class OutOfStep(Exception):
    """A row does not follow the rows in memory. The room must be read again."""


@dataclass(slots=True, eq=False)
class StateEntry:
    """The value of a key of the state from one change of it to the next."""

    #: The ordinal from which it holds.
    since: int
    key: StateKey
    #: None: the key is absent.
    event: TimelineEvent | None
    #: The value before. None with `was_absent` False: not in memory.
    previous: "StateEntry | None" = None
    #: True if the key was absent before.
    was_absent: bool = False


@dataclass(frozen=True, slots=True)
class Change:
    """A change of one key of the state."""

    key: StateKey
    #: None: the key leaves the state.
    event: TimelineEvent | None
    #: True if the key was absent before.
    was_absent: bool


@dataclass(frozen=True, slots=True)
class StateLookup:
    """The result of looking up a key in an earlier state."""

    event: TimelineEvent | None
    #: False: not in memory, read Postgres.
    known: bool = True


_UNKNOWN = StateLookup(None, known=False)


class CachedRoom:
    """A room in memory. It keeps `max_events` of the timeline and drops older ones in batches of half as many."""

    def __init__(
        self, room_id: RoomId, room_nid: int, room_version: str, *, last_ordinal: int, max_events: int
    ) -> None:
        self.room_id = room_id
        self.room_nid = room_nid
        self.version: RoomVersion = get_room_version(room_version)
        self.first_ordinal = last_ordinal + 1
        self.last_ordinal = last_ordinal
        self.events: list[TimelineEvent] = []
        self.changes: list[StateEntry] = []
        self.changes_from = last_ordinal + 1
        self.state: dict[StateKey, StateEntry] = {}
        self.members_complete = False
        self.visibility: list[tuple[int, str]] = []
        #: What the events applied as rows counted for whom.
        self.counted = CountedRows(last_ordinal)
        self.summary: SummaryRecord | None = None
        #: By (user, kind, thread), the latest change at the end.
        self.receipts: dict[tuple[UserId, str, str], ReceiptRecord] = {}
        #: True if the room has, or had, too many members to hold all their member events in memory.
        self.has_many_members = False
        self._bytes = _ROOM_BYTES  # without `visibility` and `counted`
        #: What the room counts in the size of the cache.
        self.counted_bytes = 0
        self._max_events = max_events

    # -- loading

    def load(
        self,
        events: Sequence[TimelineEvent],
        first_ordinal: int,
        state: Iterable[tuple[int | None, TimelineEvent]],
        changes: Sequence[tuple[int, Change]],
        changes_from: int,
        visibility: Iterable[tuple[int, str]],
    ) -> None:
        """Store what was read from Postgres.

        events: ascending, with every accepted event from `first_ordinal` on.
        state: (ordinal from which the event holds, event); None: some ordinal before `changes_from`.
        changes: (ordinal, change), ascending, with every change from `changes_from` on.
        """
        self.events = list(events)
        self.first_ordinal, self.changes_from = first_ordinal, changes_from
        for event in self.events:
            self._hold(event)
        by_nid = self.events_by_nid()
        changed = {change.key for _, change in changes}
        for since, event in state:
            assert event.key is not None
            if event.key in changed:
                continue  # its last change has the same event
            self._add_entry(StateEntry(self._since(since), event.key, by_nid.get(event.event_nid, event)))
        for ordinal, change in changes:
            now = None if change.event is None else by_nid.get(change.event.event_nid, change.event)
            self._change(ordinal, Change(change.key, now, change.was_absent))
        self.visibility = list(visibility)

    def events_by_nid(self) -> dict[int, TimelineEvent]:
        """Return every event in memory. There is one object per event, so that a redaction is applied once."""
        entries = [*self.changes, *self.state.values()]
        events = [entry.event for entry in (*entries, *(entry.previous for entry in self.changes)) if entry is not None]
        return {event.event_nid: event for event in (*events, *self.events) if event is not None}

    def add_members(self, members: Iterable[tuple[int | None, TimelineEvent]], *, complete: bool = False) -> None:
        """Add current member events from Postgres, each with the ordinal from which it holds.

        Member events that rows have brought meanwhile are newer and stay. complete: these are all of the room.
        """
        by_nid = {event.event_nid: event for event in self.events if event.type == MEMBER}
        for since, member in members:
            assert member.key is not None
            if member.key not in self.state:
                self._add_entry(StateEntry(self._since(since), member.key, by_nid.get(member.event_nid, member)))
        self.members_complete = self.members_complete or complete

    def add_previous(self, event: TimelineEvent, replaced: TimelineEvent) -> None:
        """Add the event that a state event replaced, from Postgres, where its row had only the number."""
        assert event.key is not None
        entry = self.state.get(event.key)
        while entry is not None and entry.since > event.ordinal:
            entry = entry.previous
        if entry is None or entry.event is not event or entry.previous is not None or entry.was_absent:
            return
        if entry.since == event.ordinal and entry.since >= self.changes_from:
            replaced = self.events_by_nid().get(replaced.event_nid, replaced)
            entry.previous = StateEntry(self.changes_from - 1, event.key, replaced)
            self._hold_entry(entry.previous)

    def _since(self, ordinal: int | None) -> int:
        """Return the ordinal of an entry. An unknown one lies before `changes_from`, where no look-up goes."""
        return self.changes_from - 1 if ordinal is None else ordinal

    # -- rows

    def apply(
        self, row: EventRow, *, accepted: bool, redacts_nid: int | None, changes: Sequence[Change] | None = None
    ) -> TimelineEvent | None:
        """Apply the next row. Return the new event; None for a row that was applied before or is not accepted.

        changes: the changes of the state at a resolved row. None: the row's event becomes the state of its key, if it
        has one. Raises OutOfStep if a row between is missing.
        """
        if row.ordinal <= self.last_ordinal:
            return None
        if row.ordinal != self.last_ordinal + 1:
            raise OutOfStep
        self.last_ordinal = row.ordinal
        self.counted.add(row, accepted=accepted and row.type != DUMMY)
        if not accepted:
            return None
        event = event_from_stream(self.version, row)
        self.events.append(event)
        self._hold(event)
        if changes is not None:
            self._apply_changes(event, changes)
        elif event.key is not None:
            self._apply_state(event, event.key)
        if redacts_nid is not None:
            self._redact(redacts_nid, event)
        if len(self.events) > self._max_events * 3 // 2:
            self._trim()
        return event

    def apply_receipt(self, receipt: ReceiptRecord) -> None:
        key = (receipt.user_id, receipt.kind, receipt.thread_id)
        known = self.receipts.get(key)
        if known is None:
            self._bytes += _receipt_size(receipt)
        elif known.position < receipt.position:
            self._bytes += _receipt_size(receipt) - _receipt_size(known)
            del self.receipts[key]
        else:
            return
        self.receipts[key] = receipt

    def _apply_state(self, event: TimelineEvent, key: StateKey) -> None:
        entry = self.state.get(key)
        replaced = entry.event if entry is not None else None
        if replaced is None and event.replaces_nid is not None and event.type != MEMBER:
            raise OutOfStep  # all state but members is in memory: a row was missed
        if replaced is not None and replaced.event_nid == event.replaces_nid:
            event.previous = replaced.as_previous()
            self.recount(event)
        self._change(event.ordinal, Change(key, event, was_absent=event.replaces_nid is None))
        self._note_change(event.ordinal, key, event)

    def _apply_changes(self, event: TimelineEvent, changes: Sequence[Change]) -> None:
        by_nid = self.events_by_nid()
        if event.replaces_nid is not None and (replaced := by_nid.get(event.replaces_nid)) is not None:
            event.previous = replaced.as_previous()
            self.recount(event)
        for change in changes:
            now = None if change.event is None else by_nid.get(change.event.event_nid, change.event)
            self._change(event.ordinal, Change(change.key, now, change.was_absent))
            self._note_change(event.ordinal, change.key, now)
        if len(self.changes) > MAX_CHANGES:
            self._forget_changes(self.changes[-(MAX_CHANGES // 2)].since)

    def _note_change(self, ordinal: int, key: StateKey, event: TimelineEvent | None) -> None:
        if key == (HISTORY_VISIBILITY, ""):
            value = event.visibility if event is not None else None
            self.visibility.append((ordinal, value or "shared"))
        if key[0] == MEMBER:
            self.summary = None

    def _change(self, ordinal: int, change: Change) -> None:
        previous = self.state.get(change.key)
        was_absent = previous is None and change.was_absent
        entry = StateEntry(ordinal, change.key, change.event, previous, was_absent)
        self.changes.append(entry)
        self._add_entry(entry)

    def _add_entry(self, entry: StateEntry) -> None:
        self.state[entry.key] = entry
        self._hold_entry(entry)

    def _redact(self, target_nid: int, redaction: TimelineEvent) -> None:
        because = Redaction(redaction.event_nid, redaction.ordinal, redaction.sender, redaction.body, self.version)
        known = self.events_by_nid()
        target = known.get(target_nid)
        if target is not None and target.redacted_because is None:
            target.redact(self.version, because)
            self.recount(target)
        for event in known.values():
            if event.replaces_nid == target_nid:
                # The redacted form may not be in memory. Nothing is better than the unredacted content.
                event.previous = target.as_previous() if target is not None else None
                self.recount(event)
            if event.redacted_because is not None and event.redacted_because.event_nid == target_nid:
                event.strip_redaction()
                self.recount(event)

    def _trim(self) -> None:
        gone = self.events[: -self._max_events]
        self.events = self.events[-self._max_events :]
        self.first_ordinal = gone[-1].ordinal + 1
        for event in gone:
            self._release(event)
        self.counted.trim(self.first_ordinal)
        self._forget_changes(self.first_ordinal)

    def _forget_changes(self, before: int) -> None:
        """Drop the changes before an ordinal, and end the chains there, or a topic's chain would grow for ever."""
        index = bisect_left(self.changes, before, key=_since)
        for entry in self.changes[:index]:
            if entry.previous is not None:
                self._bytes -= _ENTRY_BYTES
                if entry.previous.event is not None:
                    self._release(entry.previous.event)
            entry.previous, entry.was_absent = None, False
        del self.changes[:index]
        self.changes_from = max(self.changes_from, before)

    # -- the size

    @property
    def size_bytes(self) -> int:
        """The memory that the room takes."""
        return self._bytes + _VISIBILITY_BYTES * len(self.visibility) + self.counted.size_bytes

    def recount(self, event: TimelineEvent) -> None:
        """Count an event again that has changed."""
        if event.holders:
            before_bytes, event.counted_bytes = event.counted_bytes, event.size_bytes
            self._bytes += event.counted_bytes - before_bytes

    def _hold(self, event: TimelineEvent) -> None:
        if not event.holders:
            event.counted_bytes = event.size_bytes
            self._bytes += event.counted_bytes
        event.holders += 1

    def _release(self, event: TimelineEvent) -> None:
        event.holders -= 1
        if not event.holders:
            self._bytes -= event.counted_bytes

    def _hold_entry(self, entry: StateEntry) -> None:
        self._bytes += _ENTRY_BYTES
        if entry.event is not None:
            self._hold(entry.event)

    # -- reading

    def ordinal_at(self, covers: Callable[[int, int], bool]) -> int | None:
        """Return the ordinal up to which a vector covers the room; None if that is before the events in memory.

        `covers(writer, position)` is the vector's. A vector always covers a prefix of a room.
        """
        for event in reversed(self.events):
            if covers(event.writer, event.position):
                return event.ordinal
        return None if self.first_ordinal > 1 else 0

    def events_between(self, above: int, up_to: int) -> list[TimelineEvent]:
        """Return the events with ordinals above one and up to another (inclusive), as far as they are in memory."""
        start = bisect_left(self.events, above + 1, key=_ordinal)
        end = bisect_left(self.events, up_to + 1, key=_ordinal)
        return self.events[start:end]

    def has_from(self, ordinal: int) -> bool:
        """Return True if every event from this ordinal (inclusive) on is in memory."""
        return self.first_ordinal <= ordinal

    def changes_between(self, above: int, up_to: int) -> list[StateEntry] | None:
        """Return the changes with ordinals above one and up to another (inclusive); None if not all are in memory."""
        if self.changes_from > above + 1:
            return None
        if not self.changes or self.changes[-1].since <= above:
            return []
        start = bisect_left(self.changes, above + 1, key=_since)
        end = bisect_left(self.changes, up_to + 1, key=_since)
        return self.changes[start:end]

    def state_before(self, key: StateKey, ordinal: int) -> StateLookup:
        """Look up the value of a key just before an ordinal."""
        entry = self.state.get(key)
        if entry is None:
            # A key that left the state before `changes_from` is not in memory.
            known = ordinal >= self.changes_from and (key[0] != MEMBER or self.members_complete)
            return StateLookup(None) if known else _UNKNOWN
        while entry.since >= ordinal:
            if entry.previous is None:
                return StateLookup(None) if entry.was_absent and ordinal >= self.changes_from else _UNKNOWN
            entry = entry.previous
        return StateLookup(entry.event)


def _receipt_size(receipt: ReceiptRecord) -> int:
    texts = text_size(receipt.user_id) + text_size(receipt.thread_id) + text_size(receipt.event_id)
    return _RECEIPT_BYTES + texts


def _ordinal(event: TimelineEvent) -> int:
    return event.ordinal


def _since(entry: StateEntry) -> int:
    return entry.since
