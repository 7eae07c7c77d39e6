"""A room in memory: all that a usual send needs, so that it reads nothing from the database.

Two layers. The *committed* one is what Postgres holds; the *pending* one lies above it and holds what was built and
not stored yet. An event is authorised against, and built on, the pending layer, so the writes of a room follow one
another without waiting for each other's commit. The committed layer advances with the commit only. When a write
fails, the pending layer is dropped and the writes that were built above it are built again (`rebuild_after`).

Building is synchronous: between looking at the state and taking a place in the room nothing can come between.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

from shared.core.event_auth import auth_types_for, check_auth, may_apply_redaction
from shared.core.event_checks import PolicyServer
from shared.core.events import Event, build_event
from shared.core.events.format import MAX_PREV_EVENTS
from shared.core.events.readers import PowerLevels, power_levels_of
from shared.core.identifiers import EventId
from shared.core.push_rules.event_outcome import COUNTS_NOTHING
from shared.core.room_versions import RoomVersion
from shared.core.signing import SigningKey
from shared.core.state_snapshots import Snapshot
from shared.storage.events.statement import REJECTED
from workers.event_persister.room.drafts import (
    NO_CHANGE,
    Branch,
    BuiltEvent,
    Draft,
    EntryChange,
    Head,
    NewRoom,
    Overlay,
    RedactionTarget,
    RoomChanged,
    RoomLost,
    StateEntry,
    StateKey,
)
from workers.event_persister.room.event_forms import membership_in, redacted, stub
from workers.event_persister.room.joined_policy_server import JoinedPolicyServer
from workers.event_persister.room.line_changes import LineChanges
from workers.event_persister.room.recent_transactions import RecentTransactions
from workers.event_persister.room.reference_hashes import ReferenceHashes
from workers.event_persister.room.room_push import RoomPush
from workers.event_persister.room.turns import PlacementTurns

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")
GUEST_ACCESS: StateKey = ("m.room.guest_access", "")
POLICY: StateKey = ("m.room.policy", "")

#: State whose whole event is always in memory: what auth, joining and sending ask for.
KEPT_TYPES = frozenset(
    {"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.guest_access", "m.room.policy"}
)

#: Measured with tracemalloc: a state entry with its key and ids; an event's object beside its JSON.
_ENTRY_BYTES = 450
_EVENT_BYTES = 3000
_TRANSACTION_BYTES = 250
_CHANGE_BYTES = 300


class Identity(NamedTuple):
    """Who we are when we make events."""

    server_name: str
    signing_key: SigningKey


@dataclass(slots=True, eq=False)
class Write:
    """All of its events are stored, or none.

    drafts: what a client wrote; empty for events that were placed by `graph/placement.py`, which cannot be built again.
    event_nids: reserved, one per draft. key: of the client's transaction. built: the events with their places on the
    room's pending layer; replaced when the room has to build them again. done: the event ids, once they are stored.
    """

    room: "LiveRoom"
    drafts: Sequence[Draft]
    event_nids: Sequence[int]
    done: "asyncio.Future[list[str]]"
    key: bytes | None = None
    new_room: NewRoom | None = None
    built: list[BuiltEvent] = field(default_factory=list)

    @property
    def is_stored(self) -> bool:
        return self.done.done() and self.done.exception() is None

    async def wait(self) -> list[str]:
        """Return the event ids once they are stored; raise what the write failed with. It goes on if we do not wait."""
        return await asyncio.shield(self.done)

    def fail(self, error: Exception) -> None:
        """Tell who waits that nothing of it was stored."""
        if not self.done.done():
            self.done.set_exception(error)
            # A client that went away leaves a future that nobody reads: that is no fault.
            self.done.exception()


class LiveRoom:
    """create: the room's create event; head, state: as stored. events: whole state events by nid.

    last_writer, last_position: of the latest stored event; 0 in a new room. push: what its events count by; None: it
    has no members yet.
    """

    def __init__(
        self,
        identity: Identity,
        version: RoomVersion,
        room_nid: int,
        create: Event,
        head: Head,
        state: dict[StateKey, StateEntry],
        events: dict[int, Event],
        *,
        last_writer: int = 0,
        last_position: int = 0,
        transactions: Mapping[bytes, tuple[str, int]] | None = None,
        push: RoomPush | None = None,
    ) -> None:
        self.version = version
        self.room_nid = room_nid
        self.room_id: str = create.room_id
        self.create = create
        self.last_writer = last_writer
        self.last_position = last_position
        self.transactions = RecentTransactions(transactions or {})
        self.writes: list[Write] = []  # built and not stored, in the order of their places
        self.under_way: dict[bytes, Write] = {}  # those of `writes` with a client's transaction
        self.turns = PlacementTurns()  # one at a time works out places beside the room's own writes
        self.asked: dict[bytes, asyncio.Future[str]] = {}  # clients' transactions that wait for a policy server
        self.on_redacted: Callable[[str], None] = _forget_nothing  # called with ids, once that is stored
        self.held: asyncio.Future[None] | None = None  # while it is set, the room's own writes wait for it
        self.lost = False  # another owner was seen, or the lease is gone: nobody may build on this any more
        self._identity = identity
        self._committed = head
        self._pending = head
        self._state = state
        self._pending_state: dict[StateKey, StateEntry | None] = {}
        self._events = events
        self._pending_events: dict[int, Event] = {}
        self._pending_built: dict[str, BuiltEvent] = {}
        self._levels: tuple[int, PowerLevels] | None = None
        self._policy = JoinedPolicyServer()
        self._hashes = ReferenceHashes(version)
        self._changes = LineChanges(head.ordinal + 1)
        self.push = push or RoomPush(self.room_id, identity.server_name)
        self.push.belong_to(self)
        for event in (create, *events.values()):
            self.keep_hash(event)

    # -- reading the pending layer

    @property
    def head(self) -> Head:
        """The end of the pending layer. Another object whenever an event took a place."""
        return self._pending

    def entry(self, type: str, state_key: str = "") -> StateEntry | None:
        """Return the state's entry, as the next event will find it."""
        key = (type, state_key)
        if key in self._pending_state:
            return self._pending_state[key]
        return self._state.get(key)

    def membership(self, user_id: str) -> str | None:
        """Return the user's membership; None for one who never had any."""
        entry = self.entry("m.room.member", user_id)
        return entry.membership if entry is not None else None

    def members(self, membership: str) -> list[str]:
        """Return the users with this membership. Walks the whole state: not for the usual send."""
        return list(self.walk_members(membership))

    def walk_members(self, membership: str) -> Iterator[str]:
        """The same one by one: the state must not change meanwhile."""
        for (kind, key), entry in self.entries():
            if kind == "m.room.member" and entry.membership == membership:
                yield key

    def entries(self) -> Iterator[tuple[StateKey, StateEntry]]:
        """Walk the current state, without a copy: it must not change meanwhile."""
        pending = self._pending_state
        for key, entry in self._state.items():
            if key not in pending:
                yield key, entry
        for key, changed in pending.items():
            if changed is not None:
                yield key, changed

    @property
    def state_size(self) -> int:
        """About how many entries the state has."""
        return len(self._state) + len(self._pending_state)

    async def finish_writes(self) -> None:
        """Wait until what has its place now is stored, or has failed."""
        if self.writes:
            await asyncio.wait([write.done for write in self.writes])

    @asynccontextmanager
    async def hold(self) -> AsyncIterator[None]:
        """Let the room's own writes wait: what must be worked out beside them could never catch up."""
        held = self.held = asyncio.get_running_loop().create_future()
        try:
            yield
        finally:
            self.held = None
            held.set_result(None)

    def set_branches(self, branches: Mapping[int, Branch]) -> None:
        """Set the states after the extremities of a room that was just read."""
        self._committed = self._pending = self._pending._replace(branches=branches)

    def keys_now(self) -> Iterator[StateKey]:
        """Return the keys of the current state and perhaps some that left it just now; any thread may ask."""
        return iter({**self._state, **self._pending_state})

    def event(self, type: str, state_key: str = "") -> Event | None:
        """Return the state event where it is in memory (always so for KEPT_TYPES)."""
        entry = self.entry(type, state_key)
        return None if entry is None else self.event_of(entry)

    def event_of(self, entry: StateEntry) -> Event | None:
        return self.event_in_memory(entry.event_nid)

    @property
    def power_levels(self) -> PowerLevels:
        entry = self.entry(*POWER_LEVELS)
        nid = entry.event_nid if entry is not None else 0
        if self._levels is None or self._levels[0] != nid:
            event = self.event_of(entry) if entry is not None else None
            self._levels = (nid, power_levels_of(self.version, self.create, event))
        return self._levels[1]

    def pending_target(self, event_id: str) -> RedactionTarget | None:
        """Return the event where it is not stored yet."""
        built = self.built_event(event_id)
        return None if built is None else RedactionTarget(built.event_nid, event_id, built.event.sender)

    def write_of(self, event_nid: int) -> Write | None:
        """Return the write that will store this event, None when it is stored."""
        if event_nid not in self._pending_events:
            return None
        return next(write for write in self.writes if any(built.event_nid == event_nid for built in write.built))

    def built_event(self, event_id: str) -> BuiltEvent | None:
        """Return an event that has its place and is not stored yet."""
        return self._pending_built.get(event_id)

    def built_with(self, event_nid: int) -> BuiltEvent | None:
        """Return, by its number, an event that has its place and is not stored yet."""
        event = self._pending_events.get(event_nid)
        return None if event is None else self._pending_built[event.event_id]

    def pending_snapshot(self, nid: int) -> Snapshot | None:
        """Return a snapshot that is not stored yet: it has the number of the event that brings it."""
        built = self.built_with(nid)
        return None if built is None else built.graph.snapshot

    def events_in_memory(self) -> dict[EventId, Event]:
        """Return the whole events at hand, by id, those that were rejected excepted."""
        events = {event.event_id: event for event in self._events.values()}
        for built in self._pending_built.values():
            if built.graph.status != REJECTED:
                events[built.event.event_id] = self._pending_events[built.event_nid]
        return events

    def event_in_memory(self, event_nid: int) -> Event | None:
        """Return an event that is state, or is not stored yet."""
        return self._pending_events.get(event_nid) or self._events.get(event_nid)

    @property
    def create_nid(self) -> int | None:
        entry = self.entry(*CREATE)
        return None if entry is None else entry.event_nid

    def policy_server(self) -> PolicyServer | None:
        """Return the policy server that the room uses now. Usually one look-up."""
        entry = self.entry(*POLICY)
        if entry is None:
            return None
        return self._policy.server(self.event_of(entry), self.membership, self.walk_members)

    # -- what must be read before an event can be built

    @property
    def names_all_extremities(self) -> bool:
        """Whether one event can name everything that nothing follows; else it does not have the current state."""
        return len(self._pending.extremities) <= MAX_PREV_EVENTS

    def missing(
        self,
        drafts: Iterable[Draft],
        overlay: Overlay = NO_CHANGE,
        named: Sequence[tuple[int, str]] | None = None,
    ) -> set[int]:
        """Return the events without which the drafts cannot be built: usually none.

        named: the extremities that they will name; None: all.
        """
        nids: set[int] = set()
        for draft in drafts:
            nids |= self.missing_of(self._auth_keys(draft), overlay)
        extremities = self._pending.extremities if named is None else named
        nids.update(nid for nid, event_id in extremities if self._hashes.lacks(event_id))
        return nids

    def missing_of(self, keys: Iterable[StateKey], overlay: Overlay) -> set[int]:
        """Return the events without which these keys of a state cannot be looked at by the rules."""
        nids: set[int] = set()
        for key in keys:
            entry = overlay[key] if key in overlay else self.entry(*key)
            if entry is None:
                continue
            if self._hashes.lacks(entry.event_id) or (key[0] != "m.room.member" and self.event_of(entry) is None):
                nids.add(entry.event_nid)
        return nids

    def keep_hash(self, event: Event) -> None:
        """Take in the hash of an event that new ones may name, where the room's version asks for it."""
        self._hashes.note(event, kept=len(self._pending_events) + MAX_PREV_EVENTS)

    def keep(self, event_nid: int, event: Event) -> None:
        """Take in a stored event that `missing` named, or a state event that somebody asked for."""
        self.keep_hash(event)
        if event.is_state and event.type != "m.room.member":
            self._events[event_nid] = event

    # -- other states than the current one

    def entry_in(self, overlay: Overlay, key: StateKey) -> StateEntry | None:
        """Return an entry of the state that is an overlay upon the current one."""
        return overlay[key] if key in overlay else self.entry(*key)

    def auth_state(self, overlay: Overlay, keys: Iterable[StateKey]) -> dict[StateKey, Event]:
        """Return these keys of a state as the rules read them. What `missing_of` names must have been kept."""
        state: dict[StateKey, Event] = {}
        for key in keys:
            entry = overlay[key] if key in overlay else self.entry(*key)
            if entry is not None:
                state[key] = self._auth_event(key, entry)
        return state

    def power_levels_in(self, overlay: Overlay) -> PowerLevels:
        if POWER_LEVELS not in overlay:
            return self.power_levels
        entry = overlay[POWER_LEVELS]
        return power_levels_of(self.version, self.create, None if entry is None else self.event_of(entry))

    @property
    def line_from(self) -> int:
        """The least ordinal before which `line_before` knows the state."""
        return self._changes.first

    def line_before(self, ordinal: int) -> dict[StateKey, StateEntry | None]:
        """Return the state before an ordinal, at least `line_from`, as an overlay upon the current one."""
        return self._changes.before(ordinal, lambda key: self.entry(*key))

    # -- building

    def build(self, write: Write, now_ms: int, *, create_nid: int | None = None) -> None:
        """Build the write's events on the pending layer, and take their places in it.

        create_nid: in a room that does not exist yet, the number of its create event, which comes first.
        Raises MatrixError (the event cannot be), AuthRuleViolation (it may not be): then nothing has changed.
        """
        before, state_before = self._pending, dict(self._pending_state) if len(write.drafts) > 1 else None
        built: list[BuiltEvent] = []
        if create_nid is not None:
            entry = StateEntry(create_nid, self.create.event_id, None)
            built.append(self._advance(self._placed(self.create, create_nid, [], entry)))
        try:
            for draft, nid in zip(write.drafts, write.event_nids, strict=True):
                built.append(self._build_one(draft, nid, now_ms))
        except BaseException:
            for done in built:
                self._pending_events.pop(done.event_nid, None)
                self._pending_built.pop(done.event.event_id, None)
            # Another object where a thread may have read what is taken back now.
            self._pending = before._replace() if built else before
            self._changes.forget_after(before.ordinal)
            self.push.take_back(before.ordinal)
            if state_before is not None:
                self._pending_state = state_before
            raise
        write.built = built
        self._wait_for(write)

    def take(self, write: Write) -> None:
        """Let events take the places that were worked out for them, on the head as it is now. Raises RoomLost."""
        if self.lost:
            raise RoomLost("The room is moving")
        write.built = [self._advance(built) for built in write.built]
        self._wait_for(write)

    def _wait_for(self, write: Write) -> None:
        self.writes.append(write)
        if write.key is not None:
            self.under_way[write.key] = write

    def _auth_keys(self, draft: Draft) -> list[StateKey]:
        return auth_types_for(
            self.version,
            type=draft.type,
            sender=draft.sender,
            state_key=draft.state_key,
            content=draft.content,
        )

    def make_event(
        self, draft: Draft, now_ms: int, extremities: Sequence[tuple[int, str]], overlay: Overlay
    ) -> tuple[Event, list[StateEntry], dict[StateKey, Event]]:
        """Return a new event that follows these extremities and has this state, with its auth events (entries, state).

        Nothing is checked against the rules, and no place is taken.
        """
        keys = self._auth_keys(draft)
        auth = [entry for key in keys if (entry := self.entry_in(overlay, key)) is not None]
        named = [event_id for _, event_id in extremities]
        event = build_event(
            self.version,
            room_id=self.room_id,
            sender=draft.sender,
            type=draft.type,
            state_key=draft.state_key,
            content=draft.content,
            prev_event_ids=named,
            auth_event_ids=[entry.event_id for entry in auth],
            depth=self._pending.depth + 1,
            origin_server_ts=now_ms,
            redacts=draft.redacts,
            signing_key=self._identity.signing_key,
            server_name=self._identity.server_name,
            event_id_localpart=secrets.token_urlsafe(18) if self.version.event_id_server_signs else None,
            reference_hashes=self._hashes.of([*named, *(entry.event_id for entry in auth)]),
            sticky_ms=draft.sticky_ms,
        )
        return event, auth, self.auth_state(overlay, keys)

    def _build_one(self, draft: Draft, nid: int, now_ms: int) -> BuiltEvent:
        event, auth, state = self.make_event(draft, now_ms, self._pending.extremities, NO_CHANGE)
        check_auth(self.version, event, state, self.create, power_levels=self.power_levels)
        return self._advance(
            self._placed(event, nid, auth, StateEntry(nid, event.event_id, membership_in(event)), draft)
        )

    def _placed(
        self, event: Event, nid: int, auth: Sequence[StateEntry], entry: StateEntry, draft: Draft | None = None
    ) -> BuiltEvent:
        """Give an event that follows all extremities the next place."""
        head = self._pending
        changes: tuple[EntryChange, ...] = ()
        replaced = None
        if event.state_key is not None:
            replaced = self.entry(event.type, event.state_key)
            changes = (EntryChange((event.type, event.state_key), replaced, entry),)
        target = None if draft is None else draft.target
        if target is not None and not self.applies_redaction(event, target):
            target = None
        return BuiltEvent(
            event,
            nid,
            head.ordinal + 1,
            [prev for prev, _ in head.extremities],
            [named.event_nid for named in auth],
            None if replaced is None else replaced.event_nid,
            None if target is None else target.event_nid,
            entry.membership,
            Head(((nid, event.event_id),), event.depth, head.ordinal + 1),
            changes,
            None if draft is None else draft.device,
            None if draft is None else draft.txn_id,
        )

    def applies_redaction(self, redaction: Event, target: RedactionTarget, levels: PowerLevels | None = None) -> bool:
        """Return whether the redaction has its effect on the event that it names. levels: at it; None: those of now."""
        named = stub(self.room_id, target.event_id, target.sender)
        return may_apply_redaction(self.version, redaction, named, self.power_levels if levels is None else levels)

    def _advance(self, built: BuiltEvent) -> BuiltEvent:
        """Let an event take its place; return it with what it counts."""
        levels = None if built.ordinal is None else self.power_levels
        self._pending = built.head
        self._pending_built[built.event.event_id] = built
        was_redacted = built.graph.redacted_by is not None
        self._pending_events[built.event_nid] = redacted(self.version, built.event) if was_redacted else built.event
        self.keep_hash(built.event)
        for nid, event in built.graph.brought.items():
            self.keep(nid, event)
        for change in built.changes:
            self._pending_state[change.key] = change.now
            if change.key[0] == "m.room.member":
                self._policy.member_changed(change.key[1])
                self.push.member_changed(built, change)
            assert built.ordinal is not None
            self._changes.note(built.ordinal, change)
        if levels is None:
            return built
        outcome = self.push.judged(built, levels)
        if outcome is not COUNTS_NOTHING:
            built = self._pending_built[built.event.event_id] = built.counting(outcome)
        return built

    def _auth_event(self, key: StateKey, entry: StateEntry) -> Event:
        """Of other people's memberships the rules ask for the membership only: no event is needed for it."""
        if key[0] == "m.room.member":
            return stub(self.room_id, entry.event_id, key[1], type=key[0], content={"membership": entry.membership})
        event = self.event_of(entry)
        assert event is not None, f"{key[0]} was not loaded before it was needed"
        return event

    # -- after the statement

    def committed(self, write: Write, positions: Sequence[int], writer: int) -> None:
        """The write is stored: the committed layer takes it over. Writes of a room come here in their order."""
        self.writes.remove(write)
        for built, position in zip(write.built, positions, strict=True):
            event = self._pending_events.pop(built.event_nid)
            del self._pending_built[built.event.event_id]
            for change in built.changes:
                self._commit_change(change, built, event)
            if built.redacts_nid is not None and built.event.redacts is not None:
                self._redact(built.redacts_nid)
                self.on_redacted(built.event.redacts)
            if built.ordinal is not None:
                self.last_writer, self.last_position = writer, position
        last = write.built[-1]
        self._committed = last.head
        self.push.evaluator.settle(last.head.ordinal)
        if write.key is not None:
            self.under_way.pop(write.key, None)
            self.transactions.note(write.key, last.event.event_id, last.event.origin_server_ts)

    def _commit_change(self, change: EntryChange, built: BuiltEvent, event: Event) -> None:
        key, before, now = change
        if now is None:
            self._state.pop(key, None)
        else:
            self._state[key] = now
            if now.event_nid == built.event_nid and key[0] != "m.room.member":
                self._events[now.event_nid] = event
        if key in self._pending_state and self._pending_state[key] == now:
            del self._pending_state[key]
        if before is not None:
            self._events.pop(before.event_nid, None)

    def rebuild_after(self, failed: Write, now_ms: int) -> None:
        """The write was refused: drop the pending layer and build what was built above it again.

        What the rules no longer allow fails with their error. No statement with writes of this room may be under way.
        """
        waiting = [write for write in self.writes if write is not failed]
        self.writes = []
        self.under_way = {}
        # Another object: whoever worked out something meanwhile may have read what is taken back now.
        self._committed = self._pending = self._committed._replace()
        self._pending_state.clear()
        self._pending_events.clear()
        self._pending_built.clear()
        self._policy.forget_absence()
        self._changes.forget_after(self._committed.ordinal)
        self.push.take_back(self._committed.ordinal)
        for write in waiting:
            if not write.drafts:
                write.built = []
                write.fail(RoomChanged())
                continue
            try:
                self.build(write, now_ms)
            except Exception as error:
                # Each client gets its own error; none may keep the others' events from being built.
                write.built = []
                write.fail(error)

    def lose(self, error: Exception) -> None:
        """This copy of the room is worth nothing any more: fail what waits."""
        self.lost = True
        for write in self.writes:
            write.built = []
            write.fail(error)
        self.writes = []
        self.under_way = {}

    @property
    def size_bytes(self) -> int:
        """About how much memory the room takes."""
        return (
            2000
            + _ENTRY_BYTES * len(self._state)
            + sum(_EVENT_BYTES + len(event.encoded) for event in self._events.values())
            + _TRANSACTION_BYTES * len(self.transactions)
            + 150 * len(self._hashes)
            + _CHANGE_BYTES * len(self._changes)
            + self.push.size_bytes
        )

    def _redact(self, event_nid: int) -> None:
        event = self._events.get(event_nid)
        if event is not None:
            self._events[event_nid] = redacted(self.version, event)
            self._levels = None


def _forget_nothing(event_id: str) -> None:
    """Nobody keeps events of this room elsewhere."""
