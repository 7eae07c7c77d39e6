"""The states before and after events that are not simply the latest one.

A state is found in two steps. The first one reads the database: a `StateRef` names the state by a point of the room's
line and the differences from the line there. The second one reads nothing: it makes an overlay upon the current state,
which the room's own writes may have changed meanwhile.
"""

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.core.events import Event, event_from_storage
from shared.core.events.readers import membership_of
from shared.core.identifiers import EventId
from shared.core.state_snapshots import Snapshot, find_parent
from shared.storage.engine.pool import Database
from shared.storage.events.batch import ACCEPTED, SOFT_FAILED
from shared.storage.events.graph import get_line_changes, get_snapshot_walk
from workers.event_persister.graph.known_events import KnownEvent, KnownEvents, entry_of
from workers.event_persister.graph.state_entries import StateEntries
from workers.event_persister.room.drafts import NO_CHANGE, Branch, Overlay, RoomChanged, StateEntry, StateKey
from workers.event_persister.room.live_room import LiveRoom

#: A branch that differs from the line in no more entries gets a snapshot of these. A longer one continues its
#: predecessor's snapshot, which costs a walk.
SMALL_OVERLAY = 16
_PARSED_AT_ONCE = 200  # entries whose JSON is read before other tasks get a turn
_AT_ONCE = 5000  # entries that are walked before other tasks get a turn: some 3 ms


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

    async def after(self, room: LiveRoom, known: KnownEvent) -> StateRef:
        """Return the state after an event that has its place. A rejected one leaves the state as it was."""
        changes: dict[StateKey, StateEntry | None] = {}
        if known.state_nid is not None:
            base, changes = await self.changes(room, known.state_nid)
        elif known.ordinal is not None:
            # If the state before an event is the line, so is the state after it, with its own change.
            return await self._on_line(room, known.ordinal + 1, {})
        else:
            raise RoomChanged
        if known.key is not None and known.status in (ACCEPTED, SOFT_FAILED):
            changes[known.key] = known.entry()
        return await self._on_line(room, base, changes)

    async def given(self, room: LiveRoom, nid: int, known: KnownEvents) -> StateRef:
        """Return a state that another server has named, by its number. A call reads it once.

        Raises RoomChanged if it is not stored.
        """
        if nid not in known.given_states:
            known.given_states[nid] = await self.changes(room, nid)
        base, changes = known.given_states[nid]
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

    async def changes(self, room: LiveRoom, nid: int) -> tuple[int, dict[StateKey, StateEntry | None]]:
        """Return the state of a snapshot as its differences from the line before an ordinal, and that ordinal.

        Raises RoomChanged if it is gone.
        """
        walk = await self.walk(room, nid)
        base = walk[-1].base
        assert base is not None
        found = await StateEntries(room, self._database).by_nid(
            number for snapshot in walk for number in (*snapshot.added, *snapshot.removed)
        )
        changes: dict[StateKey, StateEntry | None] = {}
        walked = 0
        for snapshot in reversed(walk):
            for numbers, leaves in ((snapshot.removed, True), (snapshot.added, False)):
                for number in numbers:
                    if (walked := walked + 1) % _AT_ONCE == 0:
                        await asyncio.sleep(0)
                    if number in found:
                        changes[found[number].key] = None if leaves else found[number].entry
        return base, changes

    async def _on_line(self, room: LiveRoom, base: int, changes: Mapping[StateKey, StateEntry | None]) -> StateRef:
        end = room.state.line_from
        if base >= end:
            return StateRef(base, changes, NO_CHANGE, 0)
        rows = await get_line_changes(self._database, room.room_nid, base, end)
        older: dict[StateKey, StateEntry | None] = {}
        for number, row in enumerate(rows):
            older[row.type, row.state_key] = _entry(room, row.previous)
            if number % _PARSED_AT_ONCE == _PARSED_AT_ONCE - 1:
                await asyncio.sleep(0)
        return StateRef(base, changes, older, end)


async def upon_current(room: LiveRoom, ref: StateRef) -> Overlay:
    """Return a state as an overlay upon the room's current state, which a large one needs some turns for.

    Raises RoomChanged if the room has changed meanwhile, or its memory has become shorter since the state was read.
    """
    head = room.state.head
    start = max(ref.base, ref.older_end)
    if start < room.state.line_from:
        raise RoomChanged
    state: dict[StateKey, StateEntry | None] = room.state.line_before(start)
    entries = itertools.chain(ref.older.items(), ref.changes.items())
    while page := dict(itertools.islice(entries, _AT_ONCE)):
        state.update(page)
        if len(page) == _AT_ONCE:
            await asyncio.sleep(0)
    overlay: dict[StateKey, StateEntry | None] = {}
    walked = iter(state.items())
    while found := list(itertools.islice(walked, _AT_ONCE)):
        overlay.update((key, entry) for key, entry in found if not same_entry(entry, room.state.entry(*key)))
        if len(found) == _AT_ONCE:
            await asyncio.sleep(0)
    if room.state.head is not head:
        raise RoomChanged
    return Overlay(overlay)


def partly_upon_current(room: LiveRoom, ref: StateRef, keys: Iterable[StateKey]) -> Overlay:
    """Return these keys of a state as an overlay upon the current one: right for them alone, and made at once.

    Raises RoomChanged if the room's memory has become shorter since the state was looked up.
    """
    line = _line_before(room, ref)
    overlay: dict[StateKey, StateEntry | None] = {}
    for key in keys:
        if key in ref.changes:
            overlay[key] = ref.changes[key]
        elif key in line:
            overlay[key] = line[key]
    return Overlay(overlay)


def _line_before(room: LiveRoom, ref: StateRef) -> dict[StateKey, StateEntry | None]:
    """Return the line before the state's base as its differences from the current state."""
    start = max(ref.base, ref.older_end)
    if start < room.state.line_from:
        raise RoomChanged
    return {**room.state.line_before(start), **ref.older}


def snapshot_of_ref(room: LiveRoom, nid: int, ref: StateRef) -> Snapshot:
    """Return the root snapshot, for event `nid`, of a state. Raises RoomChanged as `partly_upon_current`."""
    added = tuple(sorted(entry.event_nid for entry in ref.changes.values() if entry is not None))
    absent = [key for key, entry in ref.changes.items() if entry is None]
    line = _line_before(room, ref) if absent else {}
    leaving = [line[key] if key in line else room.state.entry(*key) for key in absent]
    removed = tuple(sorted(entry.event_nid for entry in leaving if entry is not None))
    return Snapshot(nid, None, ref.base, 0, added, removed)


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


def ref_after(before: StateRef, event_nid: int, event: Event) -> StateRef:
    """Return the state after an event, given the state before it."""
    if event.state_key is None:
        return before
    changes = {**before.changes, (event.type, event.state_key): entry_of(event_nid, event)}
    return StateRef(before.base, changes, before.older, before.older_end)


def snapshot_of(overlay: Overlay, branches: Sequence[Branch]) -> int | None:
    """Return the snapshot of a state if one of the branches has the same state and is stored."""
    stored = [branch for branch in branches if branch.snapshot_nid is not None and len(branch.overlay) == len(overlay)]
    return next((one.snapshot_nid for one in stored if one.overlay == overlay), None)
