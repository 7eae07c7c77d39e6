"""The states before and after events that are not simply the latest one.

A state is found in two steps. The first one reads the database: a `StateRef` names the state by a point of the room's
line and the differences from the line there. The second one does not wait: it makes an overlay upon the current state,
which the room's own writes may have changed meanwhile.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.core.events import Event, event_from_storage
from shared.core.events.readers import membership_of
from shared.core.identifiers import EventId
from shared.core.state_snapshots import Snapshot, find_parent
from shared.storage.engine.pool import Database
from shared.storage.events.batch import ACCEPTED, SOFT_FAILED
from shared.storage.events.graph import get_line_changes, get_snapshot_walk
from workers.event_persister.graph.known_events import KnownEvent, KnownEvents, entry_of
from workers.event_persister.room.drafts import NO_CHANGE, Branch, Overlay, RoomChanged, StateEntry, StateKey
from workers.event_persister.room.live_room import LiveRoom

#: A branch that differs from the line in no more entries gets a snapshot of these. A longer one continues its
#: predecessor's snapshot, which costs a walk.
SMALL_OVERLAY = 16
_AT_ONCE = 200  # entries that are read before other tasks get a turn


@dataclass(frozen=True, slots=True)
class StateRef:
    """A state: the line before `base`, with `changes` upon it.

    older: the values that the line had there for the keys that have changed before `older_end`. They are read because
        the room's memory does not reach so far back.
    """

    base: int
    changes: Mapping[StateKey, StateEntry | None]
    older: Mapping[StateKey, StateEntry | None]
    older_end: int


class GraphStates:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def after(self, room: LiveRoom, known: KnownEvent, events: KnownEvents) -> StateRef:
        """Return the state after an event that has its place. A rejected one leaves the state as it was."""
        changes: dict[StateKey, StateEntry | None] = {}
        if known.state_nid is not None:
            base, changes = await self._snapshot(room, known.state_nid, events)
        elif known.ordinal is not None:
            # If the state before an event is the line, so is the state after it, with its own change.
            return await self._on_line(room, known.ordinal + 1, {})
        else:
            raise RoomChanged
        if known.key is not None and known.status in (ACCEPTED, SOFT_FAILED):
            changes[known.key] = known.entry()
        return await self._on_line(room, base, changes)

    async def walk(self, room: LiveRoom, nid: int) -> list[Snapshot]:
        """Return a snapshot and its ancestors. Raises RoomChanged if it is gone."""
        walk: list[Snapshot] = []
        at: int | None = nid
        while at is not None and (pending := room.state.pending_snapshot(at)) is not None:
            walk.append(pending)
            at = pending.parent
        if at is not None:
            walk += await get_snapshot_walk(self._database, room.room_nid, at)
        if not walk or walk[-1].base is None:
            raise RoomChanged
        return walk

    async def _snapshot(
        self, room: LiveRoom, nid: int, events: KnownEvents
    ) -> tuple[int, dict[StateKey, StateEntry | None]]:
        walk = await self.walk(room, nid)
        base = walk[-1].base
        assert base is not None
        return base, await changes_of(walk, events)

    async def _on_line(self, room: LiveRoom, base: int, changes: Mapping[StateKey, StateEntry | None]) -> StateRef:
        end = room.state.line_from
        if base >= end:
            return StateRef(base, changes, NO_CHANGE, 0)
        rows = await get_line_changes(self._database, room.room_nid, base, end)
        older: dict[StateKey, StateEntry | None] = {}
        for number, row in enumerate(rows):
            older[row.type, row.state_key] = _entry(room, row.previous)
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
        return StateRef(base, changes, older, end)


async def changes_of(walk: Sequence[Snapshot], events: KnownEvents) -> dict[StateKey, StateEntry | None]:
    """Return all changes of the snapshots of a walk (latest first), upon their root's base."""
    nids = {nid for snapshot in walk for nid in (*snapshot.added, *snapshot.removed)}
    found = await events.entries(list(nids))
    changes: dict[StateKey, StateEntry | None] = {}
    for snapshot in reversed(walk):
        for nid in snapshot.removed:
            if (key := found[nid].key) is not None:
                changes[key] = None
        for nid in snapshot.added:
            if (key := found[nid].key) is not None:
                changes[key] = found[nid].entry()
    return changes


def upon_current(room: LiveRoom, ref: StateRef) -> Overlay:
    """Return a state as an overlay upon the room's current state.

    Raises RoomChanged if the room's memory has become shorter since the state was looked up.
    """
    start = max(ref.base, ref.older_end)
    if start < room.state.line_from:
        raise RoomChanged
    overlay: dict[StateKey, StateEntry | None] = {**room.state.line_before(start), **ref.older, **ref.changes}
    return Overlay((key, entry) for key, entry in overlay.items() if not same_entry(entry, room.state.entry(*key)))


def same_entry(one: StateEntry | None, other: StateEntry | None) -> bool:
    """Return True if two entries are of the same event."""
    if one is None or other is None:
        return one is other
    return one.event_nid == other.event_nid


def root_snapshot(room: LiveRoom, nid: int, overlay: Overlay, ref: StateRef | None = None) -> Snapshot:
    """Return the snapshot, for event `nid`, of a state that is an overlay upon the room's current one.

    ref: the same state, if it is known. The line may have changed a lot since the branch left it.
    """
    if ref is not None and len(ref.changes) < len(overlay):
        entries = [entry for entry in ref.changes.values() if entry is not None]
        if len(entries) == len(ref.changes):
            return Snapshot(nid, None, ref.base, 0, tuple(sorted(entry.event_nid for entry in entries)), ())
    added = tuple(sorted(entry.event_nid for entry in overlay.values() if entry is not None))
    leaving = [room.state.entry(*key) for key, entry in overlay.items() if entry is None]
    removed = tuple(sorted(entry.event_nid for entry in leaving if entry is not None))
    return Snapshot(nid, None, room.state.head.ordinal + 1, 0, added, removed)


def step_snapshot(
    nid: int, walk: Sequence[Snapshot], keys: Mapping[int, StateKey], key: StateKey, event_nid: int
) -> Snapshot:
    """Return the snapshot, for event `nid`, of the state after one event whose state before has a snapshot.

    walk: of that snapshot.
    keys: of the events that its rows add.
    key, event_nid: the entry that the one event sets.
    Steps only add entries: a state from which keys are gone came from a resolution, and has a root.
    """
    index = find_parent(walk)
    holds = {keys[added]: added for snapshot in reversed(walk[:index]) for added in snapshot.added}
    holds[key] = event_nid
    return Snapshot(nid, walk[index].nid, None, walk[0].steps + 1, tuple(sorted(holds.values())), ())


def branch_after(before: Branch, event_nid: int, event: Event) -> Branch:
    """Return the state after an event, given the state before it."""
    if event.state_key is None:
        return before
    return Branch(before.overlay.replaced((event.type, event.state_key), entry_of(event_nid, event)))


def _entry(room: LiveRoom, event: tuple[int, EventId, bytes | None] | None) -> StateEntry | None:
    if event is None:
        return None
    nid, event_id, json = event
    membership = None if json is None else membership_of(event_from_storage(room.version, json, event_id))
    return StateEntry(nid, event_id, membership)


async def entries_of(event_ids: Sequence[EventId], known: KnownEvents) -> dict[StateKey, StateEntry]:
    """Return the entries of a state that another server has listed by event ids."""
    given: dict[StateKey, StateEntry] = {}
    for number, event_id in enumerate(event_ids):
        found = known.get(event_id)
        if found is not None and found.key is not None and not found.is_rejected:
            given[found.key] = found.entry()
        if number % _AT_ONCE == _AT_ONCE - 1:
            await asyncio.sleep(0)
    return given


def upon_current_state(room: LiveRoom, given: Mapping[StateKey, StateEntry]) -> Overlay:
    """Return a state, given as a whole, as an overlay upon the current one."""
    overlay: dict[StateKey, StateEntry | None] = {key: None for key, _ in room.state.entries() if key not in given}
    overlay.update((key, entry) for key, entry in given.items() if not same_entry(room.state.entry(*key), entry))
    return Overlay(overlay)


def snapshot_of(overlay: Overlay, branches: Sequence[Branch]) -> int | None:
    """Return the snapshot of a state if one of the branches has the same state and is stored."""
    stored = [branch for branch in branches if branch.snapshot_nid is not None and len(branch.overlay) == len(overlay)]
    return next((one.snapshot_nid for one in stored if one.overlay == overlay), None)
