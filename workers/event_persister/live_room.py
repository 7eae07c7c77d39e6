"""A room in memory: all that a usual send needs, so that it reads nothing from the database.

Two layers. The *committed* one is what Postgres holds; the *pending* one lies above it and holds what was built and
not stored yet. An event is authorised against, and built on, the pending layer, so the writes of a room follow one
another without waiting for each other's commit. The committed layer advances with the commit only. When a write
fails, the pending layer is dropped and the writes that were built above it are built again (`rebuild_after`).

Building is synchronous: between looking at the state and taking a place in the room nothing can come between.
"""

import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from shared.core.canonical_json import encode_canonical
from shared.core.event_auth import auth_types_for, check_auth, may_apply_redaction
from shared.core.events import Event, build_event, event_from_storage, redact_pdu
from shared.core.events.hashing import reference_hash
from shared.core.events.readers import PowerLevels, membership_of, power_levels_of
from shared.core.identifiers import EventId, RoomId, UserId
from shared.core.room_versions import RoomVersion
from shared.core.signing import SigningKey
from workers.event_persister.drafts import BuiltEvent, Draft, RedactionTarget, Write

StateKey = tuple[str, str]

CREATE: StateKey = ("m.room.create", "")
POWER_LEVELS: StateKey = ("m.room.power_levels", "")
JOIN_RULES: StateKey = ("m.room.join_rules", "")
GUEST_ACCESS: StateKey = ("m.room.guest_access", "")

#: State whose whole event is always in memory: what auth, and joining, ask for.
KEPT_TYPES = frozenset({"m.room.create", "m.room.power_levels", "m.room.join_rules", "m.room.guest_access"})

#: Measured with tracemalloc: a state entry with its key and ids; an event's object beside its JSON.
_ENTRY_BYTES = 450
_EVENT_BYTES = 3000
_TRANSACTION_BYTES = 250
#: Clients' transactions in memory, per room. An older one is found by the database when it is stored again.
TRANSACTIONS_KEPT_MS = 3_600_000
MAX_TRANSACTIONS = 5000


class Identity(NamedTuple):
    """Who we are when we make events."""

    server_name: str
    signing_key: SigningKey


class StateEntry(NamedTuple):
    """One entry of the room's state. membership: of a member event."""

    event_nid: int
    event_id: str
    membership: str | None


class Head(NamedTuple):
    """Where the timeline ends. extremities: (nid, id) of the events that nothing follows; depth: the greatest
    among them; ordinal: of the latest event, 0 before the first."""

    extremities: tuple[tuple[int, str], ...]
    depth: int
    ordinal: int


class LiveRoom:
    """create: the room's create event; head, state: as stored. events: whole state events by nid.

    last_writer, last_position: of the latest stored event; 0 in a new room.
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
    ) -> None:
        self.version = version
        self.room_nid = room_nid
        self.room_id: str = create.room_id
        self.create = create
        self.last_writer = last_writer
        self.last_position = last_position
        self.transactions: dict[bytes, tuple[str, int]] = dict(transactions or {})
        self.writes: list[Write] = []  # built and not stored, in the order of their places
        self.under_way: dict[bytes, Write] = {}  # those of `writes` with a client's transaction
        self.lost = False  # another owner was seen, or the lease is gone: nobody may build on this any more
        self._identity = identity
        self._committed = head
        self._pending = head
        self._state = state
        self._pending_state: dict[StateKey, StateEntry] = {}
        self._events = events
        self._pending_events: dict[int, Event] = {}
        self._hashes: dict[str, bytes] = {}  # reference hashes of state, in versions whose events name them
        self._message_hashes: dict[str, bytes] = {}  # and of the latest other events
        self._levels: tuple[int, PowerLevels] | None = None
        if version.references_with_hashes:
            for event in (create, *events.values()):
                self._note_hash(event)

    # -- reading the pending layer

    def entry(self, type: str, state_key: str = "") -> StateEntry | None:
        """Return the state's entry, as the next event will find it."""
        key = (type, state_key)
        return self._pending_state.get(key) or self._state.get(key)

    def membership(self, user_id: str) -> str | None:
        """Return the user's membership; None for one who never had any."""
        entry = self.entry("m.room.member", user_id)
        return entry.membership if entry is not None else None

    def members(self, membership: str) -> list[str]:
        """Return the users with this membership. Walks the whole state: not for the usual send."""
        state = {**self._state, **self._pending_state}
        return [
            key for (kind, key), entry in state.items() if kind == "m.room.member" and entry.membership == membership
        ]

    def event(self, type: str, state_key: str = "") -> Event | None:
        """Return the state event where it is in memory (always so for KEPT_TYPES)."""
        entry = self.entry(type, state_key)
        return None if entry is None else self.event_of(entry)

    def event_of(self, entry: StateEntry) -> Event | None:
        return self._pending_events.get(entry.event_nid) or self._events.get(entry.event_nid)

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
        for write in self.writes:
            for built in write.built:
                if built.event.event_id == event_id:
                    return RedactionTarget(built.event_nid, event_id, built.event.sender)
        return None

    def write_of(self, event_nid: int) -> Write | None:
        """Return the write that will store this event, None when it is stored."""
        if event_nid not in self._pending_events:
            return None
        return next(write for write in self.writes if any(built.event_nid == event_nid for built in write.built))

    # -- what must be read before an event can be built

    def missing(self, drafts: Iterable[Draft]) -> set[int]:
        """Return the events without which the drafts cannot be built: usually none."""
        nids: set[int] = set()
        for draft in drafts:
            for key in self._auth_keys(draft):
                entry = self.entry(*key)
                if entry is None:
                    continue
                if self.version.references_with_hashes and self._hash(entry.event_id) is None:
                    nids.add(entry.event_nid)
                if key[0] != "m.room.member" and self.event_of(entry) is None:
                    nids.add(entry.event_nid)
        if self.version.references_with_hashes:
            nids.update(nid for nid, event_id in self._pending.extremities if self._hash(event_id) is None)
        return nids

    def keep_hash(self, event: Event) -> None:
        """Take in the hash of an event that new ones may name, where the room's version asks for it."""
        if self.version.references_with_hashes:
            self._note_hash(event)

    def keep(self, event_nid: int, event: Event) -> None:
        """Take in a stored event that `missing` named, or a state event that somebody asked for."""
        self.keep_hash(event)
        if event.is_state and event.type != "m.room.member":
            self._events[event_nid] = event

    # -- building

    def build(self, write: Write, now_ms: int, *, create_nid: int | None = None) -> None:
        """Build the write's events on the pending layer, and take their places in it.

        create_nid: in a room that does not exist yet, the number of its create event, which comes first.
        Raises MatrixError (the event cannot be), AuthRuleViolation (it may not be): then nothing has changed.
        """
        before, state_before = self._pending, dict(self._pending_state) if len(write.drafts) > 1 else None
        built: list[BuiltEvent] = []
        if create_nid is not None:
            draft = Draft(self.create.sender, self.create.type, "", self.create.content)
            built.append(BuiltEvent(draft, self.create, create_nid, 1, (), (), None, None, None))
            self._advance(built[0])
        try:
            for draft, nid in zip(write.drafts, write.event_nids, strict=True):
                built.append(self._build_one(draft, nid, now_ms))
        except BaseException:
            for done in built:
                self._pending_events.pop(done.event_nid, None)
            self._pending = before
            if state_before is not None:
                self._pending_state = state_before
            raise
        write.built = built
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

    def _build_one(self, draft: Draft, nid: int, now_ms: int) -> BuiltEvent:
        head = self._pending
        auth: list[StateEntry] = []
        state: dict[StateKey, Event] = {}
        for key in self._auth_keys(draft):
            entry = self.entry(*key)
            if entry is not None:
                auth.append(entry)
                state[key] = self._auth_event(key, entry)
        event = build_event(
            self.version,
            room_id=self.room_id,
            sender=draft.sender,
            type=draft.type,
            state_key=draft.state_key,
            content=draft.content,
            prev_event_ids=[event_id for _, event_id in head.extremities],
            auth_event_ids=[entry.event_id for entry in auth],
            depth=head.depth + 1,
            origin_server_ts=now_ms,
            redacts=draft.redacts,
            signing_key=self._identity.signing_key,
            server_name=self._identity.server_name,
            event_id_localpart=secrets.token_urlsafe(18) if self.version.event_id_server_signs else None,
            reference_hashes=self._hashes_of(head, auth) if self.version.references_with_hashes else None,
        )
        levels = self.power_levels
        check_auth(self.version, event, state, self.create, power_levels=levels)
        replaced = self.entry(event.type, event.state_key) if event.state_key is not None else None
        redacts = draft.target
        if redacts is not None and not may_apply_redaction(
            self.version, event, _stub(self.room_id, redacts.event_id, redacts.sender), levels
        ):
            redacts = None
        built = BuiltEvent(
            draft,
            event,
            nid,
            head.ordinal + 1,
            [prev for prev, _ in head.extremities],
            [entry.event_nid for entry in auth],
            None if replaced is None else replaced.event_nid,
            None if redacts is None else redacts.event_nid,
            membership_of(event) if event.is_state and event.type == "m.room.member" else None,
        )
        self._advance(built)
        return built

    def _advance(self, built: BuiltEvent) -> None:
        event = built.event
        self._pending = Head(((built.event_nid, event.event_id),), event.depth, built.ordinal)
        self._pending_events[built.event_nid] = event
        if self.version.references_with_hashes:
            self._note_hash(event)
        if event.state_key is not None:
            self._pending_state[event.type, event.state_key] = StateEntry(
                built.event_nid, event.event_id, built.membership
            )

    def _auth_event(self, key: StateKey, entry: StateEntry) -> Event:
        """Of other people's memberships the rules ask for the membership only: no event is needed for it."""
        if key[0] == "m.room.member":
            return _stub(self.room_id, entry.event_id, key[1], type=key[0], content={"membership": entry.membership})
        event = self.event_of(entry)
        assert event is not None, f"{key[0]} was not loaded before it was needed"
        return event

    # -- after the statement

    def committed(self, write: Write, positions: Sequence[int], writer: int) -> None:
        """The write is stored: the committed layer takes it over. Writes of a room come here in their order."""
        self.writes.remove(write)
        for built in write.built:
            event = built.event
            del self._pending_events[built.event_nid]
            if event.state_key is not None:
                key = (event.type, event.state_key)
                entry = StateEntry(built.event_nid, event.event_id, built.membership)
                self._state[key] = entry
                if self._pending_state.get(key) == entry:
                    del self._pending_state[key]
                if event.type != "m.room.member":
                    self._events[built.event_nid] = event
                if built.replaces_nid is not None:
                    self._events.pop(built.replaces_nid, None)
            if built.redacts_nid is not None:
                self._redact(built.redacts_nid)
        last = write.built[-1]
        self._committed = Head(((last.event_nid, last.event.event_id),), last.event.depth, last.ordinal)
        self.last_writer, self.last_position = writer, positions[-1]
        if write.key is not None:
            self.under_way.pop(write.key, None)
            self._remember(write.key, last.event.event_id, last.event.origin_server_ts)

    def rebuild_after(self, failed: Write, now_ms: int) -> None:
        """The write was refused: drop the pending layer and build what was built above it again.

        What the rules no longer allow fails with their error. No statement with writes of this room may be under way.
        """
        waiting = [write for write in self.writes if write is not failed]
        self.writes = []
        self.under_way = {}
        self._pending = self._committed
        self._pending_state.clear()
        self._pending_events.clear()
        for write in waiting:
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
        )

    def _remember(self, key: bytes, event_id: str, now_ms: int) -> None:
        self.transactions[key] = (event_id, now_ms)
        while True:  # insertion order is age
            oldest = next(iter(self.transactions))
            recent = self.transactions[oldest][1] >= now_ms - TRANSACTIONS_KEPT_MS
            if recent and len(self.transactions) <= MAX_TRANSACTIONS:
                return
            del self.transactions[oldest]

    def _hash(self, event_id: str) -> bytes | None:
        return self._hashes.get(event_id) or self._message_hashes.get(event_id)

    def _hashes_of(self, head: Head, auth: Sequence[StateEntry]) -> dict[str, bytes]:
        named = [event_id for _, event_id in head.extremities] + [entry.event_id for entry in auth]
        return {event_id: digest for event_id in named if (digest := self._hash(event_id)) is not None}

    def _note_hash(self, event: Event) -> None:
        """State is named for as long as it is state; another event only while nothing stored follows it."""
        digest = reference_hash(self.version, event.pdu)
        if event.is_state:
            self._hashes[event.event_id] = digest
            return
        self._message_hashes[event.event_id] = digest
        while len(self._message_hashes) > len(self._pending_events) + 20:
            del self._message_hashes[next(iter(self._message_hashes))]

    def _redact(self, event_nid: int) -> None:
        event = self._events.get(event_nid)
        if event is not None:
            self._events[event_nid] = redacted(self.version, event)
            self._levels = None


def redacted(version: RoomVersion, event: Event) -> Event:
    """Return what its redaction leaves of an event."""
    return event_from_storage(version, encode_canonical(redact_pdu(version, event.pdu)), event.event_id)


def _stub(
    room_id: str, event_id: str, user_id: str, type: str = "", content: Mapping[str, object] | None = None
) -> Event:
    return Event(
        EventId(event_id),
        RoomId(room_id),
        type,
        UserId(user_id),
        user_id,
        content or {},
        0,
        0,
        (),
        (),
        None,
        {},
        b"",
    )
