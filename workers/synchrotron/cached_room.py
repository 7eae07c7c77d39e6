"""PURE: one active room in memory, as the rows of the stream `events` leave it.

Always true:
- `events` are the room's latest events with ascending ordinals; every accepted event from `first_ordinal` to
  `last_ordinal` is among them.
- `state` is the room's current state after `last_ordinal`: all of it but m.room.member, and of that type at least
  what `members_complete` promises; a member who is absent is then not in the state.
- walking `replaced` from an entry of `state` gives what its key held before, as long as both lie in `events`.
"""

from asyncio import Future
from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from shared.core.room_versions import RoomVersion, get_room_version
from shared.core.wire.client_event import join_client_event
from shared.storage.read_memberships import SummaryRecord
from shared.storage.read_receipts import ReceiptRecord
from workers.synchrotron.timeline_event import (
    HISTORY_VISIBILITY,
    MEMBER,
    EventInStream,
    TimelineEvent,
    event_from_stream,
)

StateKey = tuple[str, str]
_ROOM_BYTES = 4_000  # an empty room's objects
_RECEIPT_BYTES = 500


class OutOfStep(Exception):
    """A row doesn't follow what is in memory: drop the room and read it again."""


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
        self.state: dict[StateKey, TimelineEvent] = {}
        self.members_complete = False
        self.visibility: list[tuple[int, str]] = []
        self.summary: SummaryRecord | None = None
        #: By (user, kind, thread); those changed last at the end. None: nobody has asked yet.
        self.receipts: dict[tuple[str, str, str], ReceiptRecord] | None = None
        self.receipts_loading: Future[None] | None = None
        self._early_receipts: list[ReceiptRecord] = []
        self.size_bytes = _ROOM_BYTES
        self._max_events = max_events

    # -- filling

    def fill(
        self, events: Sequence[TimelineEvent], first_ordinal: int, state: Iterable[TimelineEvent],
        visibility: Iterable[tuple[int, str]],
    ) -> None:  # fmt: skip
        """Set what Postgres holds. events: ascending; first_ordinal: nothing accepted is missing from there on."""
        self.events = list(events)
        self.first_ordinal = first_ordinal
        for event in state:
            self._set_state(event)
        by_nid = {event.event_nid: event for event in self.events}
        for event in self.events:
            self.size_bytes += event.size_bytes
            if event.replaces_nid is not None:
                event.replaced = by_nid.get(event.replaces_nid)
            # One object per event: what is in the timeline and in the state shares its bytes.
            current = None if event.key is None else self.state.get(event.key)
            if event.key is not None and current is not None and current.event_nid == event.event_nid:
                self.state[event.key] = event
        self.visibility = list(visibility)

    def remember_members(self, members: Iterable[TimelineEvent], *, complete: bool = False) -> None:
        """Take in current member events that were read from Postgres. complete: these are all."""
        by_nid = {event.event_nid: event for event in self.events if event.type == MEMBER}
        for member in members:
            assert member.key is not None
            known = self.state.get(member.key)
            if known is None or known.ordinal < member.ordinal:
                self._set_state(by_nid.get(member.event_nid, member))
        self.members_complete = self.members_complete or complete

    def remember_receipts(self, receipts: Iterable[ReceiptRecord]) -> None:
        """receipts: what Postgres holds, by position; rows that came while it was read are newer or the same."""
        self.receipts = {}
        for receipt in (*receipts, *self._early_receipts):
            self.apply_receipt(receipt)
        self._early_receipts = []

    # -- rows

    def apply(self, row: EventInStream, *, accepted: bool, redacts_nid: int | None) -> TimelineEvent | None:
        """Take in the next row. Returns the new event; None for one that was in memory already, or not accepted.

        Raises OutOfStep when a row between is missing.
        """
        if row.ordinal <= self.last_ordinal:
            return None
        if row.ordinal != self.last_ordinal + 1:
            raise OutOfStep
        self.last_ordinal = row.ordinal
        if not accepted:
            return None
        event = event_from_stream(self.version, row)
        if event.key is not None:
            self._apply_state(event)
        self.events.append(event)
        self.size_bytes += event.size_bytes
        if redacts_nid is not None:
            self._redact(redacts_nid, event)
        if len(self.events) > self._max_events * 3 // 2:
            self._trim()
        return event

    def apply_receipt(self, receipt: ReceiptRecord) -> None:
        if self.receipts is None:
            if self.receipts_loading is not None:
                self._early_receipts.append(receipt)
            return
        key = (receipt.user_id, receipt.kind, receipt.thread_id)
        known = self.receipts.get(key)
        if known is None:
            self.size_bytes += _RECEIPT_BYTES
        if known is None or known.position < receipt.position:
            self.receipts.pop(key, None)
            self.receipts[key] = receipt

    def _apply_state(self, event: TimelineEvent) -> None:
        assert event.key is not None
        replaced = self.state.get(event.key)
        if replaced is None and event.replaces_nid is not None and event.type != MEMBER:
            raise OutOfStep  # all other state is in memory: something was missed
        if replaced is not None and replaced.event_nid == event.replaces_nid:
            event.replaced = replaced
            event.previous = replaced.as_previous()
        self._set_state(event)
        if event.type == HISTORY_VISIBILITY and event.state_key == "" and event.visibility is not None:
            self.visibility.append((event.ordinal, event.visibility))
        if event.type == MEMBER:
            self.summary = None

    def _set_state(self, event: TimelineEvent) -> None:
        assert event.key is not None
        old = self.state.get(event.key)
        self.state[event.key] = event
        self.size_bytes += event.size_bytes - (old.size_bytes if old is not None else 0)

    def _redact(self, target_nid: int, redaction: TimelineEvent) -> None:
        because = join_client_event(redaction.body, room_id=None, unsigned=None)
        targets = {
            id(event): event
            for event in (*self.events, *self.state.values())
            if event.event_nid == target_nid and event.redacted_because is None
        }
        for event in targets.values():
            event.redact(self.version, because)
        for event in (*self.events, *self.state.values()):
            if event.replaces_nid == target_nid:
                if event.replaced is not None:
                    event.previous = event.replaced.as_previous()
                else:
                    event.previous = None  # what is left of it is not in memory: better nothing than too much

    def _trim(self) -> None:
        gone = self.events[: -self._max_events]
        self.events = self.events[-self._max_events :]
        self.first_ordinal = gone[-1].ordinal + 1
        for event in gone:
            # Nothing may look back further than the timeline goes; else the chain of a topic would grow for ever.
            event.replaced = None
            if event.key is None or self.state.get(event.key) is not event:
                self.size_bytes -= event.size_bytes

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

    def state_before(self, key: StateKey, ordinal: int) -> Found:
        """Return what a key held just before an ordinal."""
        event = self.state.get(key)
        if event is None:
            return Found(None) if key[0] != MEMBER or self.members_complete else _UNKNOWN
        while event is not None and event.ordinal >= ordinal:
            if event.replaces_nid is not None and event.replaced is None:
                return _UNKNOWN
            event = event.replaced
        return Found(event)


def _ordinal(event: TimelineEvent) -> int:
    return event.ordinal
