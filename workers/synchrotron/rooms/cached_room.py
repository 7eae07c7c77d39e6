"""PURE: one active room in memory, as the rows of the stream `events` leave it.

Always true:
- `events` are the room's latest events with ascending ordinals; every accepted event from `first_ordinal` to
  `last_ordinal` is among them.
- `changes` are all changes of the state from `changes_from` to `last_ordinal`, in order. In a room without forks that
  is each state event of the timeline; where state resolution decided, several keys may change at one ordinal, to
  events from elsewhere or to nothing, and a state event may change nothing.
- `state` is the room's current state after `last_ordinal`: all of it but m.room.member, and of that type at least
  what `members_complete` promises; a member who is absent is then not in the state.
- walking `before` from an entry of `state` gives what its key held before, as far as `changes` go.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shared.core.room_versions import RoomVersion, get_room_version
from shared.core.rows import EventRow
from shared.core.unread import DUMMY, CountedRows
from shared.core.wire.client_event import join_client_event
from shared.rooms.timeline_event import (
    HISTORY_VISIBILITY,
    MEMBER,
    TimelineEvent,
    event_from_stream,
)
from shared.storage.rooms.memberships import SummaryRecord
from shared.storage.user_data.receipts import ReceiptRecord

StateKey = tuple[str, str]
_ROOM_BYTES = 4_000  # an empty room's objects
_RECEIPT_BYTES = 500
_CHANGE_BYTES = 250
#: Without forks there are at most as many as events. Resolution may change thousands of keys at once: then the older
#: half is left to Postgres.
MAX_CHANGES = 1000


class OutOfStep(Exception):
    """A row doesn't follow what is in memory: drop the room and read it again."""


@dataclass(slots=True, eq=False)
class Held:
    """A key of the state holds this event (None: nothing) from ordinal `since` on, until the next change of the key.

    before: what it held before; from_nothing: the key was absent then. Neither: that isn't in memory.
    """

    since: int
    key: StateKey
    event: TimelineEvent | None
    before: "Held | None" = None
    from_nothing: bool = False

    @property
    def size_bytes(self) -> int:
        # An event of the timeline is counted there; one from elsewhere is here only.
        elsewhere = self.event is not None and self.event.ordinal != self.since
        return _CHANGE_BYTES + (self.event.size_bytes if self.event is not None and elsewhere else 0)


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one key. event None: it leaves the state; from_nothing: it was absent before."""

    key: StateKey
    event: TimelineEvent | None
    from_nothing: bool


@dataclass(frozen=True, slots=True)
class Found:
    """What a look back into the state gave. known False: not in memory, ask Postgres."""

    event: TimelineEvent | None
    known: bool = True


_UNKNOWN = Found(None, known=False)


class CachedRoom:
    """max_events: of the timeline kept; the oldest go when there are half as many again."""

    def __init__(self, room_id: str, room_nid: int, room_version: str, *, last_ordinal: int, max_events: int) -> None:
        self.room_id = room_id
        self.room_nid = room_nid
        self.version: RoomVersion = get_room_version(room_version)
        self.first_ordinal = last_ordinal + 1
        self.last_ordinal = last_ordinal
        self.events: list[TimelineEvent] = []
        self.changes: list[Held] = []
        self.changes_from = last_ordinal + 1
        self.state: dict[StateKey, Held] = {}
        self.members_complete = False
        self.visibility: list[tuple[int, str]] = []
        #: What the events counted that came as rows.
        self.counted = CountedRows(last_ordinal)
        self.summary: SummaryRecord | None = None
        #: By (user, kind, thread); those changed last at the end.
        self.receipts: dict[tuple[str, str, str], ReceiptRecord] = {}
        #: Whether more have, or had, a membership than are ever in memory.
        self.many_members = False
        self.size_bytes = _ROOM_BYTES
        self._max_events = max_events

    # -- filling

    def fill(
        self, events: Sequence[TimelineEvent], first_ordinal: int, state: Iterable[tuple[int | None, TimelineEvent]],
        changes: Sequence[tuple[int, Change]], changes_from: int, visibility: Iterable[tuple[int, str]],
    ) -> None:  # fmt: skip
        """Set what Postgres holds. events: ascending; first_ordinal: nothing accepted is missing from there on.

        state: each with the ordinal from which it holds, None: some time before `changes_from`; changes: with their
        ordinals, ascending, none missing from `changes_from` on.
        """
        self.events = list(events)
        self.first_ordinal, self.changes_from = first_ordinal, changes_from
        self.size_bytes += sum(event.size_bytes for event in self.events)
        by_nid = self.events_by_nid()
        changed = {change.key for _, change in changes}
        for since, event in state:
            assert event.key is not None
            if event.key in changed:
                continue  # its last change says the same
            self._hold(Held(self._since(since), event.key, by_nid.get(event.event_nid, event)))
        for ordinal, change in changes:
            now = None if change.event is None else by_nid.get(change.event.event_nid, change.event)
            self._change(ordinal, Change(change.key, now, change.from_nothing))
        self.visibility = list(visibility)

    def events_by_nid(self) -> dict[int, TimelineEvent]:
        """Return every event in memory: one object per event, so that what redacts it is done once."""
        entries = [*self.changes, *self.state.values()]
        held = [entry.event for entry in (*entries, *(entry.before for entry in self.changes)) if entry is not None]
        return {event.event_nid: event for event in (*held, *self.events) if event is not None}

    def remember_members(self, members: Iterable[tuple[int | None, TimelineEvent]], *, complete: bool = False) -> None:
        """Take in current member events that were read from Postgres, with the ordinals from which they hold.

        What rows have told meanwhile is newer, and stays. complete: these are all.
        """
        by_nid = {event.event_nid: event for event in self.events if event.type == MEMBER}
        for since, member in members:
            assert member.key is not None
            if member.key not in self.state:
                self._hold(Held(self._since(since), member.key, by_nid.get(member.event_nid, member)))
        self.members_complete = self.members_complete or complete

    def remember_before(self, event: TimelineEvent, replaced: TimelineEvent) -> None:
        """Take in what a state event replaced, read from Postgres, where rows have told only its number."""
        assert event.key is not None
        entry = self.state.get(event.key)
        while entry is not None and entry.since > event.ordinal:
            entry = entry.before
        if entry is None or entry.event is not event or entry.before is not None or entry.from_nothing:
            return
        if entry.since == event.ordinal and entry.since >= self.changes_from:
            replaced = self.events_by_nid().get(replaced.event_nid, replaced)
            entry.before = Held(self.changes_from - 1, event.key, replaced)

    def _since(self, ordinal: int | None) -> int:
        """Return from when on something holds, as far as it matters here: look-backs before `changes_from` end."""
        return self.changes_from - 1 if ordinal is None else ordinal

    # -- rows

    def apply(
        self, row: EventRow, *, accepted: bool, redacts_nid: int | None, changes: Sequence[Change] | None = None
    ) -> TimelineEvent | None:
        """Take in the next row. Returns the new event; None for one that was in memory already, or not accepted.

        changes: what a resolved row did to the state (events that are in memory are taken from there); None: the row
        is its key's state, if it has a key. Raises OutOfStep when a row between is missing.
        """
        if row.ordinal <= self.last_ordinal:
            return None
        if row.ordinal != self.last_ordinal + 1:
            raise OutOfStep
        self.last_ordinal = row.ordinal
        self.size_bytes += self.counted.add(row, accepted=accepted and row.type != DUMMY)
        if not accepted:
            return None
        event = event_from_stream(self.version, row)
        self.events.append(event)
        self.size_bytes += event.size_bytes
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
            self.size_bytes += _RECEIPT_BYTES
        if known is None or known.position < receipt.position:
            self.receipts.pop(key, None)
            self.receipts[key] = receipt

    def _apply_state(self, event: TimelineEvent, key: StateKey) -> None:
        held = self.state.get(key)
        replaced = held.event if held is not None else None
        if replaced is None and event.replaces_nid is not None and event.type != MEMBER:
            raise OutOfStep  # all other state is in memory: something was missed
        if replaced is not None and replaced.event_nid == event.replaces_nid:
            event.previous = replaced.as_previous()
        self._change(event.ordinal, Change(key, event, from_nothing=event.replaces_nid is None))
        self._note_change(event.ordinal, key, event)

    def _apply_changes(self, event: TimelineEvent, changes: Sequence[Change]) -> None:
        by_nid = self.events_by_nid()
        if event.replaces_nid is not None and (replaced := by_nid.get(event.replaces_nid)) is not None:
            event.previous = replaced.as_previous()
        for change in changes:
            now = None if change.event is None else by_nid.get(change.event.event_nid, change.event)
            self._change(event.ordinal, Change(change.key, now, change.from_nothing))
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
        before = self.state.get(change.key)
        held = Held(ordinal, change.key, change.event, before, from_nothing=before is None and change.from_nothing)
        self.changes.append(held)
        self.size_bytes += held.size_bytes
        self._hold(held)

    def _hold(self, held: Held) -> None:
        old = self.state.get(held.key)
        self.state[held.key] = held
        self.size_bytes += _bytes_of(held.event) - (_bytes_of(old.event) if old is not None else 0)

    def _redact(self, target_nid: int, redaction: TimelineEvent) -> None:
        because = join_client_event(redaction.body, room_id=None, unsigned=None)
        known = self.events_by_nid()
        target = known.get(target_nid)
        if target is not None and target.redacted_because is None:
            target.redact(self.version, because)
        for event in known.values():
            if event.replaces_nid == target_nid:
                # What is left of it is perhaps not in memory: better nothing than too much.
                event.previous = target.as_previous() if target is not None else None

    def _trim(self) -> None:
        gone = self.events[: -self._max_events]
        self.events = self.events[-self._max_events :]
        self.first_ordinal = gone[-1].ordinal + 1
        self.size_bytes -= sum(event.size_bytes for event in gone) + self.counted.trim(self.first_ordinal)
        self._forget_changes(self.first_ordinal)

    def _forget_changes(self, before: int) -> None:
        """Forget changes before an ordinal. Nothing may look back further; else a topic's chain would grow for ever."""
        place = bisect_left(self.changes, before, key=_since)
        for held in self.changes[:place]:
            self.size_bytes -= held.size_bytes
            held.before, held.from_nothing = None, False
        del self.changes[:place]
        self.changes_from = max(self.changes_from, before)

    # -- reading

    def place_of(self, covers: Callable[[int, int], bool]) -> int | None:
        """Return the ordinal up to which a vector covers the room; None when that is before what is in memory.

        covers(writer, position). What a vector covers of a room is a prefix of it.
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
        """Return whether everything from this ordinal (inclusive) on is in memory."""
        return self.first_ordinal <= ordinal

    def changes_between(self, above: int, up_to: int) -> list[Held] | None:
        """Return the changes with ordinals above one and up to another (inclusive); None: not all are in memory."""
        if self.changes_from > above + 1:
            return None
        if not self.changes or self.changes[-1].since <= above:
            return []
        start = bisect_left(self.changes, above + 1, key=_since)
        end = bisect_left(self.changes, up_to + 1, key=_since)
        return self.changes[start:end]

    def state_before(self, key: StateKey, ordinal: int) -> Found:
        """Return what a key held just before an ordinal."""
        held = self.state.get(key)
        if held is None:
            # What left the state before `changes_from` is in no memory.
            known = ordinal >= self.changes_from and (key[0] != MEMBER or self.members_complete)
            return Found(None) if known else _UNKNOWN
        while held.since >= ordinal:
            if held.before is None:
                return Found(None) if held.from_nothing and ordinal >= self.changes_from else _UNKNOWN
            held = held.before
        return Found(held.event)


def _bytes_of(event: TimelineEvent | None) -> int:
    return 0 if event is None else event.size_bytes


def _ordinal(event: TimelineEvent) -> int:
    return event.ordinal


def _since(held: Held) -> int:
    return held.since
