"""The current state of a room in memory, in two layers, and the events that building on it needs.

The *committed* layer is what Postgres holds. The *pending* layer above it also holds the events that have taken their
places and are not stored yet. Unless a name says otherwise, reading means the pending layer. So the writes of a room
follow one another without waiting for each other's commit. The committed layer advances with the commit only.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from shared.cache.sizes import json_size, text_size
from shared.core.event_checks import PolicyServer
from shared.core.events import Event
from shared.core.events.format import MAX_PREV_EVENTS
from shared.core.events.readers import PowerLevels, power_levels_of
from shared.core.identifiers import EventId, UserId
from shared.core.push_rules.event_outcome import COUNTS_NOTHING
from shared.core.room_versions import RoomVersion
from shared.core.state_snapshots import Snapshot
from shared.storage.events.batch import REJECTED
from workers.event_persister.room.drafts import (
    Branch,
    BuiltEvent,
    EntryChange,
    Head,
    Overlay,
    RedactionTarget,
    StateEntry,
    StateKey,
)
from workers.event_persister.room.event_forms import redacted, stub
from workers.event_persister.room.joined_policy_server import JoinedPolicyServer
from workers.event_persister.room.line_changes import LineChanges
from workers.event_persister.room.member_table import LARGE_ROOM, MemberTable
from workers.event_persister.room.reference_hashes import ReferenceHashes
from workers.event_persister.room.room_push import RoomPush
from workers.event_persister.room.state_sizes import StateSizes

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")
GUEST_ACCESS: StateKey = ("m.room.guest_access", "")
POLICY: StateKey = ("m.room.policy", "")
MEMBER = "m.room.member"

#: The types of state whose whole events are always in memory: auth, joining and sending read them.
#: Server ACLs: every event of another server is checked against them.
KEPT_TYPES = frozenset(
    {
        "m.room.create",
        "m.room.power_levels",
        "m.room.join_rules",
        "m.room.guest_access",
        "m.room.policy",
        "m.room.server_acl",
    }
)

#: Measured with tracemalloc: a state entry without state key and event id; an event's object.
_ENTRY_BYTES = 260
_EVENT_BYTES = 700
_HASH_BYTES = 150
_SIZE_BYTES = 110
_CHANGE_BYTES = 300


class Savepoint(NamedTuple):
    """The pending layer before several events. entries: None if one event at most is to be built."""

    head: Head
    entries: dict[StateKey, StateEntry | None] | None


class RoomState:
    """create: the room's create event. push: what the room's events count by."""

    def __init__(
        self,
        version: RoomVersion,
        create: Event,
        *,
        head: Head,
        entries: dict[StateKey, StateEntry],
        events: dict[int, Event],
        push: RoomPush,
        table: MemberTable | None = None,
        sizes: StateSizes | None = None,
    ) -> None:
        """Keep the state as it is stored.

        events: the whole state events at hand, by number.
        table: the members of a large room, who are not among `entries` then.
        sizes: of the other entries.
        """
        self._version = version
        self._create = create
        self._committed = head
        self._pending = head
        self._entries = entries
        self._entries_bytes = _entries_size(entries)
        self._table = table
        #: Of the committed layer.
        self.sizes = StateSizes() if sizes is None else sizes
        self._pending_entries: dict[StateKey, StateEntry | None] = {}
        self._events = events
        self._events_bytes = sum(map(_event_size, events.values()))
        self._pending_events: dict[int, Event] = {}
        self._pending_built: dict[EventId, BuiltEvent] = {}
        self._levels: tuple[int, PowerLevels] | None = None
        self._policy = JoinedPolicyServer()
        self._hashes = ReferenceHashes(version)
        self._changes = LineChanges(head.ordinal + 1)
        #: How often events that had their places were taken back.
        self.taken_back = 0
        self.push = push
        self.push.belong_to(self)
        for event in (create, *events.values()):
            self.keep_hash(event)

    # -- the current state

    @property
    def head(self) -> Head:
        """The end of the pending layer. Another object whenever an event took a place."""
        return self._pending

    def entry(self, type: str, state_key: str = "") -> StateEntry | None:
        """Return the entry that the next event will find."""
        key = (type, state_key)
        if key in self._pending_entries:
            return self._pending_entries[key]
        entry = self._entries.get(key)
        if entry is None and self._table is not None and type == MEMBER:
            return self._table.get(state_key)
        return entry

    def read_entry(self, key: StateKey) -> StateEntry | None:
        """Return an entry. Any thread may call this: what it reads may be old if the head has changed."""
        if key in self._pending_entries:
            return self._pending_entries[key]
        entry = self._entries.get(key)
        if entry is None and self._table is not None and key[0] == MEMBER:
            return self._table.read(key[1])
        return entry

    def membership(self, user_id: UserId) -> str | None:
        """Return the user's membership, None if they never had any."""
        entry = self.entry(MEMBER, user_id)
        return entry.membership if entry is not None else None

    def members(self, membership: str) -> list[UserId]:
        """Return the users with this membership. It walks the whole state, which a usual send must not do."""
        return list(self.walk_members(membership))

    def walk_members(self, membership: str) -> Iterator[UserId]:
        """Yield the users with this membership. The state must not change meanwhile."""
        if self._table is None:
            for (kind, key), entry in self.entries():
                if kind == MEMBER and entry.membership == membership:
                    yield UserId(key)
            return
        pending = self._pending_entries
        for user_id in self._table.with_membership(membership):
            if (MEMBER, user_id) not in pending:
                yield user_id
        for (kind, key), changed in pending.items():
            if kind == MEMBER and changed is not None and changed.membership == membership:
                yield UserId(key)

    def entries(self) -> Iterator[tuple[StateKey, StateEntry]]:
        """Walk the current state without a copy. It must not change meanwhile."""
        pending = self._pending_entries
        for key, entry in self._entries.items():
            if key not in pending:
                yield key, entry
        if self._table is not None:
            for user_id, entry in self._table.items():
                if (MEMBER, user_id) not in pending:
                    yield (MEMBER, user_id), entry
        for key, changed in pending.items():
            if changed is not None:
                yield key, changed

    def keys_now(self) -> Iterator[StateKey]:
        """Return the keys of the current state, and perhaps some that left it just now. Any thread may call this."""
        keys = dict.fromkeys((*self._entries, *self._pending_entries))
        if self._table is not None:
            keys.update(dict.fromkeys((MEMBER, user_id) for user_id in self._table.user_ids()))
        return iter(keys)

    @property
    def size(self) -> int:
        """About how many entries the state has."""
        return len(self._entries) + len(self._pending_entries) + (0 if self._table is None else len(self._table))

    @property
    def create_nid(self) -> int | None:
        entry = self.entry(*CREATE)
        return None if entry is None else entry.event_nid

    @property
    def power_levels(self) -> PowerLevels:
        entry = self.entry(*POWER_LEVELS)
        nid = entry.event_nid if entry is not None else 0
        if self._levels is None or self._levels[0] != nid:
            event = self.event_of(entry) if entry is not None else None
            self._levels = (nid, power_levels_of(self._version, self._create, event))
        return self._levels[1]

    def policy_server(self) -> PolicyServer | None:
        """Return the policy server that the room uses now. Usually one look-up."""
        entry = self.entry(*POLICY)
        if entry is None:
            return None
        return self._policy.server(self.event_of(entry), self.membership, self.walk_members)

    @property
    def names_all_extremities(self) -> bool:
        """True if one event can name all extremities. If not, a new event does not have the current state."""
        return len(self._pending.extremities) <= MAX_PREV_EVENTS

    # -- events at hand

    def event(self, type: str, state_key: str = "") -> Event | None:
        """Return the state event if it is in memory, as those of KEPT_TYPES always are."""
        entry = self.entry(type, state_key)
        return None if entry is None else self.event_of(entry)

    def event_of(self, entry: StateEntry) -> Event | None:
        return self.event_in_memory(entry.event_nid)

    def event_in_memory(self, event_nid: int) -> Event | None:
        """Return an event that is state, or is not stored yet."""
        return self._pending_events.get(event_nid) or self._events.get(event_nid)

    def events_in_memory(self) -> dict[EventId, Event]:
        """Return the whole events at hand by id, without those that were rejected."""
        events = {event.event_id: event for event in self._events.values()}
        for built in self._pending_built.values():
            if built.graph.status != REJECTED:
                events[built.event.event_id] = self._pending_events[built.event_nid]
        return events

    def is_pending(self, event_nid: int) -> bool:
        """Return True if the event has its place and is not stored yet."""
        return event_nid in self._pending_events

    def built_event(self, event_id: EventId) -> BuiltEvent | None:
        """Return an event that has its place and is not stored yet."""
        return self._pending_built.get(event_id)

    def built_with(self, event_nid: int) -> BuiltEvent | None:
        """Return, by its number, an event that has its place and is not stored yet."""
        event = self._pending_events.get(event_nid)
        return None if event is None else self._pending_built[event.event_id]

    def pending_target(self, event_id: EventId) -> RedactionTarget | None:
        """Return what a redaction reads of an event that is not stored yet."""
        built = self.built_event(event_id)
        return None if built is None else RedactionTarget(built.event_nid, event_id, built.event.sender)

    def pending_snapshot(self, nid: int) -> Snapshot | None:
        """Return a snapshot that is not stored yet. It has the number of the event that brings it."""
        built = self.built_with(nid)
        return None if built is None else built.graph.snapshot

    # -- what must be read before an event can be built

    def missing_of(self, keys: Iterable[StateKey], overlay: Overlay) -> set[int]:
        """Return the events that the rules need to read these keys of a state and that are not in memory."""
        nids: set[int] = set()
        for key in keys:
            entry = self.entry_in(overlay, key)
            if entry is None:
                continue
            if self._hashes.lacks(entry.event_id) or (key[0] != MEMBER and self.event_of(entry) is None):
                nids.add(entry.event_nid)
        return nids

    def missing_hashes(self, named: Iterable[tuple[int, EventId]]) -> set[int]:
        """Return those of the events (number, id) that must be read before a new event can name them."""
        return {nid for nid, event_id in named if self._hashes.lacks(event_id)}

    def hashes_of(self, event_ids: Iterable[EventId]) -> dict[EventId, bytes] | None:
        """Return event id -> reference hash, None if the room's version does not write them."""
        return self._hashes.of(event_ids)

    def keep_hash(self, event: Event) -> None:
        """Keep the hash of an event that new ones may name, if the room's version needs it."""
        self._hashes.note(event, kept=len(self._pending_events) + MAX_PREV_EVENTS)

    def keep(self, event_nid: int, event: Event) -> None:
        """Keep a stored event that was missing, or a state event that was read."""
        self.keep_hash(event)
        if event.is_state and event.type != MEMBER:
            self._put_event(event_nid, event)

    # -- other states than the current one

    def entry_in(self, overlay: Overlay, key: StateKey) -> StateEntry | None:
        """Return an entry of the state that is an overlay upon the current one."""
        return overlay[key] if key in overlay else self.entry(*key)

    def auth_state(self, overlay: Overlay, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
        """Return these keys of a state as the rules read them. The events of `missing_of` must have been kept."""
        state: dict[StateKey, Event] = {}
        for key in keys:
            entry = self.entry_in(overlay, key)
            if entry is not None:
                state[key] = self._auth_event(key, entry)
        return state

    def power_levels_in(self, overlay: Overlay) -> PowerLevels:
        if POWER_LEVELS not in overlay:
            return self.power_levels
        entry = overlay[POWER_LEVELS]
        return power_levels_of(self._version, self._create, None if entry is None else self.event_of(entry))

    @property
    def line_from(self) -> int:
        """The least ordinal before which `line_before` knows the state."""
        return self._changes.first

    def line_before(self, ordinal: int) -> dict[StateKey, StateEntry | None]:
        """Return the state before an ordinal, at least `line_from`, as an overlay upon the current one."""
        return self._changes.before(ordinal, lambda key: self.entry(*key))

    def set_branches(self, branches: Mapping[int, Branch]) -> None:
        """Set the states after the extremities of a room that was just read."""
        self._committed = self._pending = self._pending._replace(branches=branches)

    # -- events take their places

    def advance(self, built: BuiltEvent) -> BuiltEvent:
        """Let an event take its place, and return it with what it counts."""
        levels = None if built.ordinal is None else self.power_levels
        self._pending = built.head
        self._pending_built[built.event.event_id] = built
        was_redacted = built.graph.redacted_by is not None
        self._pending_events[built.event_nid] = redacted(self._version, built.event) if was_redacted else built.event
        self.keep_hash(built.event)
        for nid, event in built.graph.brought.items():
            self.keep(nid, event)
        for change in built.changes:
            self._pending_entries[change.key] = change.now
            if change.key[0] == MEMBER:
                self._policy.member_changed(UserId(change.key[1]))
                self.push.member_changed(built, change)
            assert built.ordinal is not None
            self._changes.note(built.ordinal, change)
        if levels is None:
            return built
        outcome = self.push.count(built, levels)
        if outcome is not COUNTS_NOTHING:
            built = self._pending_built[built.event.event_id] = built.counting(outcome)
        return built

    def savepoint(self, events: int) -> Savepoint:
        """Return what `return_to` needs when building so many events fails half-way."""
        return Savepoint(self._pending, dict(self._pending_entries) if events > 1 else None)

    def return_to(self, savepoint: Savepoint, built: Sequence[BuiltEvent]) -> None:
        """Take back the events that took places since the savepoint."""
        self.taken_back += bool(built)
        for event in built:
            self._pending_events.pop(event.event_nid, None)
            self._pending_built.pop(event.event.event_id, None)
        # Another object if a thread may have read what is taken back now.
        self._pending = savepoint.head._replace() if built else savepoint.head
        if savepoint.entries is not None:
            self._pending_entries = savepoint.entries
        self._changes.forget_after(savepoint.head.ordinal)
        self.push.take_back(savepoint.head.ordinal)

    def commit(self, built: BuiltEvent) -> None:
        """Move a stored event, the next in order, to the committed layer."""
        event = self._pending_events.pop(built.event_nid)
        del self._pending_built[built.event.event_id]
        for change in built.changes:
            self._commit_change(change, built, event)
        if built.redacts_nid is not None and built.event.redacts is not None:
            self._redact(built.redacts_nid, built.redacts_sender)

    def commit_head(self, head: Head) -> None:
        """Move the end of the committed layer behind the last event of a write."""
        self._committed = head
        self.push.evaluator.settle(head.ordinal)

    def drop_pending(self) -> None:
        """Take back everything that is not stored."""
        self.taken_back += 1
        # Another object: a thread may have read what is taken back now.
        self._committed = self._pending = self._committed._replace()
        self._pending_entries.clear()
        self._pending_events.clear()
        self._pending_built.clear()
        self._policy.forget_absence()
        self._changes.forget_after(self._committed.ordinal)
        self.push.take_back(self._committed.ordinal)

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        return (
            self._entries_bytes
            + (0 if self._table is None else self._table.size_bytes)
            + self._events_bytes
            + _SIZE_BYTES * len(self.sizes)
            + _HASH_BYTES * len(self._hashes)
            + _CHANGE_BYTES * len(self._changes)
            + self.push.size_bytes
        )

    def _auth_event(self, key: StateKey, entry: StateEntry) -> Event:
        """Return what the rules read of an entry. Of a member event that is the membership, so a stub will do."""
        if key[0] == MEMBER:
            content = {"membership": entry.membership}
            return stub(self._create.room_id, entry.event_id, UserId(key[1]), type=key[0], content=content)
        event = self.event_of(entry)
        assert event is not None, f"{key[0]} was not loaded before it was needed"
        return event

    def _commit_change(self, change: EntryChange, built: BuiltEvent, event: Event) -> None:
        key, before, now = change
        if key[0] == MEMBER:
            self._commit_member(key, now)
            self._measure(key, now, built)
        else:
            self._set_entry(key, now)
            self._measure(key, now, built)
            if now is not None and now.event_nid == built.event_nid:
                self._put_event(now.event_nid, event)
        if key in self._pending_entries and self._pending_entries[key] == now:
            del self._pending_entries[key]
        if before is not None and (gone := self._events.pop(before.event_nid, None)) is not None:
            self._events_bytes -= _event_size(gone)

    def _measure(self, key: StateKey, now: StateEntry | None, built: BuiltEvent) -> None:
        if now is None:
            self.sizes.remove(key)
            return
        is_own = now.event_nid == built.event_nid
        event = built.event if is_own else built.graph.brought.get(now.event_nid) or self.event_of(now)
        if event is not None:
            self.sizes.set(key, len(event.encoded))

    def _commit_member(self, key: StateKey, now: StateEntry | None) -> None:
        if self._table is None and now is not None and key not in self._entries and len(self._entries) >= LARGE_ROOM:
            self._keep_members_in_table()
        if self._table is None:
            self._set_entry(key, now)
        elif now is None:
            self._table.pop(key[1])
        else:
            self._table.put(key[1], now)

    def _set_entry(self, key: StateKey, now: StateEntry | None) -> None:
        if (before := self._entries.get(key)) is not None:
            self._entries_bytes -= _entry_size(key, before)
        if now is None:
            self._entries.pop(key, None)
        else:
            self._entries[key] = now
            self._entries_bytes += _entry_size(key, now)

    def _keep_members_in_table(self) -> None:
        """Move the members to a table: once in the life of a room in memory, in some 20 ms."""
        table = MemberTable()
        for (kind, user_id), entry in self._entries.items():
            if kind == MEMBER:
                table.put(user_id, entry)
        # Before the entries go, for threads that read.
        self._table = table
        self._entries = {key: entry for key, entry in self._entries.items() if key[0] != MEMBER}
        self._entries_bytes = _entries_size(self._entries)

    def _redact(self, event_nid: int, sender: UserId | None) -> None:
        event = self._events.get(event_nid)
        if event is not None:
            self._put_event(event_nid, redacted(self._version, event))
            self._levels = None
        if sender is not None and (entry := self.entry(MEMBER, sender)) is not None and entry.event_nid == event_nid:
            self.push.take_name(sender, "")

    def _put_event(self, event_nid: int, event: Event) -> None:
        former = self._events.get(event_nid)
        self._events[event_nid] = event
        self._events_bytes += _event_size(event) - (0 if former is None else _event_size(former))


def _entry_size(key: StateKey, entry: StateEntry) -> int:
    return _ENTRY_BYTES + text_size(key[1]) + text_size(entry.event_id)


def _entries_size(entries: Mapping[StateKey, StateEntry]) -> int:
    return sum(_entry_size(key, entry) for key, entry in entries.items())


def _event_size(event: Event) -> int:
    return _EVENT_BYTES + len(event.encoded) + json_size(event.encoded)
