"""Events of a room before and after they have their places, and the states between them."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from shared.core.errors import SkepError, Unavailable
from shared.core.events import Event
from shared.core.identifiers import EventId, UserId
from shared.core.push_rules.event_outcome import COUNTS_NOTHING, EventOutcome
from shared.core.state_snapshots import Snapshot, rebase
from shared.storage.events.batch import ACCEPTED

StateKey: TypeAlias = tuple[str, str]


class RoomLost(Unavailable):
    """This copy of the room was dropped before anything was built on it. Look the room up again."""


class RoomChanged(SkepError):
    """The room has changed, or a write below this one failed. Find the event's place again."""


class StateEntry(NamedTuple):
    """One entry of the room's state. membership: of member events only."""

    event_nid: int
    event_id: EventId
    membership: str | None


class EntryChange(NamedTuple):
    """A change of one key of the room's state. None: the key is not in the state."""

    key: StateKey
    before: StateEntry | None
    now: StateEntry | None


_KEPT_IDS = 1000  # per overlay: more are not worth their memory


class Overlay(dict[StateKey, StateEntry | None]):
    """A state as its differences from the room's current state. None: the key is absent.

    An overlay never changes, so its hash, by which equal ones are found, and its ids are computed once.
    """

    __slots__ = ("_hash", "_ids")

    _hash: int
    _ids: dict[StateKey, EventId | None]

    def __hash__(self) -> int:  # type: ignore[override]
        try:
            return self._hash
        except AttributeError:
            value = 0
            for key, entry in self.items():
                value ^= _hash_of(key, entry)
            self._hash = value
            return value

    @property
    def ids(self) -> Mapping[StateKey, EventId | None]:
        """The entries as event ids."""
        try:
            return self._ids
        except AttributeError:
            ids = {key: None if entry is None else entry.event_id for key, entry in self.items()}
            if len(ids) <= _KEPT_IDS:
                self._ids = ids
            return ids

    def replaced(self, key: StateKey, entry: StateEntry) -> "Overlay":
        """Return this state with another entry."""
        overlay = Overlay(self)
        overlay[key] = entry
        overlay._hash = hash(self) ^ _hash_of(key, entry) ^ (_hash_of(key, self[key]) if key in self else 0)
        return overlay

    def rebased(self, changes: Mapping[StateKey, tuple[StateEntry | None, StateEntry | None]]) -> "Overlay":
        """Return the same state upon a changed base. changes: key -> (entry before, now). See `rebase`."""
        overlay = Overlay(rebase(self, changes))
        value = hash(self)
        for key in changes:
            if key in self:
                value ^= _hash_of(key, self[key])
            if key in overlay:
                value ^= _hash_of(key, overlay[key])
        overlay._hash = value
        return overlay


def _hash_of(key: StateKey, entry: StateEntry | None) -> int:
    return hash((key, None if entry is None else entry.event_nid))


NO_CHANGE = Overlay()


class Branch(NamedTuple):
    """The state after one of several forward extremities. snapshot_nid: its snapshot, None if it is not stored."""

    overlay: Overlay
    snapshot_nid: int | None = None


class Head(NamedTuple):
    """The end of a room's timeline.

    extremities: (number, id) of the forward extremities.
    depth: the greatest depth among them.
    ordinal: of the latest live event, 0 before the first.
    branches: extremity's number -> the state after it, upon the current state, which is the resolution of them all.
        Empty if there is one extremity: the state after it is the current one.
    """

    extremities: tuple[tuple[int, EventId], ...]
    depth: int
    ordinal: int
    branches: Mapping[int, Branch] = MappingProxyType({})


class RedactionTarget(NamedTuple):
    """The parts of a redacted event that the rules read."""

    event_nid: int
    event_id: EventId
    sender: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """An event without its place in the room. It can be built again, on other previous events, if needed.

    device, txn_id: shown to that device of the sender only. NO_DEVICE if the server sends the event for the sender.
    target: of a redaction.
    sticky_ms: how long it is sticky (MSC4354), or None if it is not.
    """

    sender: UserId
    type: str
    state_key: str | None
    content: Mapping[str, Any]
    _: KW_ONLY
    device: str | None = None
    txn_id: str | None = None
    redacts: EventId | None = None
    target: RedactionTarget | None = None
    sticky_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Graph:
    """The place in the room's graph of an event that is not simply the next one.

    status, anchor, back, state_nid: as in the table `events`.
    snapshot: to be stored with the event.
    gaps: anchor -> ids that are missing there from now on; none if the gap is closed.
    is_after_gap: True if events before it are missing.
    redacted_by: the redaction, if it arrived before the event.
    awaited: the event id that this redaction names, if that event is unknown.
    was_awaited: True if redactions arrived before the event, in effect or not.
    brought: other state events that enter the current state with it, of the types that are kept and of local members.
    senders: of all state events that enter the current state with it, by number.
    promotes: True if the event is stored already, as an outlier.
    """

    status: int = ACCEPTED
    _: KW_ONLY
    anchor: int | None = None
    back: int | None = None
    state_nid: int | None = None
    snapshot: Snapshot | None = None
    gaps: Mapping[int, Sequence[EventId]] = field(default_factory=dict)
    is_after_gap: bool = False
    redacted_by: int | None = None
    awaited: str | None = None
    was_awaited: bool = False
    brought: Mapping[int, Event] = field(default_factory=dict)
    senders: Mapping[int, UserId] = field(default_factory=dict)
    promotes: bool = False


USUAL = Graph()


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltEvent:
    """An event with its place in the room.

    ordinal: dense, from 1, or None if the event is not in the live timeline.
    prev_nids, auth_nids: the stored events that it names.
    replaces_nid: the state event that it replaces.
    redacts_nid, redacts_sender: the event that it redacts, and who sent that.
    membership: of a member event.
    head: the room's head after the event.
    changes: of the current state.
    push: its unread counts, set when it takes its place.
    """

    event: Event
    event_nid: int
    ordinal: int | None
    prev_nids: Sequence[int]
    auth_nids: Sequence[int]
    head: Head
    replaces_nid: int | None = None
    redacts_nid: int | None = None
    redacts_sender: UserId | None = None
    membership: str | None = None
    changes: Sequence[EntryChange] = ()
    device: str | None = None
    txn_id: str | None = None
    graph: Graph = USUAL
    push: EventOutcome = COUNTS_NOTHING

    def counting(self, push: EventOutcome) -> "BuiltEvent":
        """Return the event with its unread counts. `dataclasses.replace` would take four times as long."""
        return BuiltEvent(
            event=self.event,
            event_nid=self.event_nid,
            ordinal=self.ordinal,
            prev_nids=self.prev_nids,
            auth_nids=self.auth_nids,
            replaces_nid=self.replaces_nid,
            redacts_nid=self.redacts_nid,
            redacts_sender=self.redacts_sender,
            membership=self.membership,
            head=self.head,
            changes=self.changes,
            device=self.device,
            txn_id=self.txn_id,
            graph=self.graph,
            push=push,
        )

    @property
    def is_resolved(self) -> bool:
        """True if it changes the state in another way than by becoming the state of its key."""
        if self.ordinal is None:
            return False
        if self.event.state_key is None:
            return bool(self.changes)
        now = self.changes[0].now if len(self.changes) == 1 else None
        return now is None or now.event_nid != self.event_nid


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRoom:
    """A room that is stored with its first events. alias: its first alias, or None."""

    creator: UserId
    is_public: bool
    created_ms: int
    alias: str | None
