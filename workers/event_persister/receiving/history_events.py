"""Place events of history, which lie in a gap before a live event and were fetched later.

They do not change the current state. Extremities that accepted history follows are extremities no more. Each event
gets the place just before the history that is known there, and a snapshot of the state before it if that is known.

The room's own writes go on meanwhile. So states are kept as their differences from a point of the room's line, which
does not move, and are resolved upon a copy of the current state. The room's writes wait only while these are made.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import NamedTuple

from replication.calls.received_events import Received
from shared.core.event_auth import auth_types_for
from shared.core.event_checks import Verdict, check_state_before
from shared.core.events import Event
from shared.core.events.readers import PowerLevels
from shared.core.identifiers import EventId
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.events.batch import ACCEPTED, REJECTED
from shared.storage.events.graph import get_last_back
from workers.event_persister.commit.committer import Committer
from workers.event_persister.graph.branch_resolution import RoomResolution
from workers.event_persister.graph.known_events import KnownEvent, KnownEvents, entry_of
from workers.event_persister.graph.parked_rooms import RoomParked
from workers.event_persister.graph.state_entries import StateEntries
from workers.event_persister.graph.states import (
    SMALL_OVERLAY,
    GraphStates,
    StateRef,
    partly_upon_current,
    ref_after,
    snapshot_of,
    snapshot_of_ref,
    step_snapshot,
    upon_current,
)
from workers.event_persister.room.drafts import (
    NO_CHANGE,
    Branch,
    BuiltEvent,
    Graph,
    Head,
    RedactionTarget,
    RoomChanged,
    StateKey,
)
from workers.event_persister.room.live_room import LiveRoom, Write, placed_write
from workers.event_persister.room.room_state import POWER_LEVELS

#: Tries of the last step beside the room's writes. After so many were overtaken by a write, the room's writes wait.
_FREE_TRIES = 3
_COPIED_AT_ONCE = 5000  # entries of a state


@dataclass(slots=True)
class PlacedHistory:
    """Events of history after placing.

    writes: event id -> the verdict, and the write that stores the event.
    answers: for events that cannot be checked yet.
    gaps: anchor -> ids that are still missing.
    """

    writes: dict[EventId, tuple[Verdict, Write]] = field(default_factory=dict)
    answers: dict[EventId, Received] = field(default_factory=dict)
    gaps: Mapping[int, Sequence[EventId]] = field(default_factory=dict)


class _State(NamedTuple):
    """A state. snapshot_nid: its snapshot, None if it has none."""

    ref: StateRef
    snapshot_nid: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Checked:
    """An event of history that was checked.

    before: the state before the event, None if unknown. It has a snapshot.
    redacts: the event that it redacts.
    awaited: see `Graph`.
    """

    event: Event
    nid: int
    auth_nids: Sequence[int]
    verdict: Verdict
    before: _State | None
    snapshot: Snapshot | None
    redacts: RedactionTarget | None
    awaited: str | None
    promotes: bool

    @property
    def known(self) -> KnownEvent:
        state_nid = None if self.before is None else self.before.snapshot_nid
        status = ACCEPTED if self.verdict.passed else REJECTED
        return KnownEvent(self.nid, self.event, status, None, None, state_nid, is_stored=False)


class _Chunk:
    """The events of one chunk that are not being written yet.

    checked: the events, earliest first.
    after: event id -> the state after the event.
    """

    def __init__(self, room: LiveRoom) -> None:
        self.checked: list[_Checked] = []
        self.after: dict[EventId, _State] = {}
        self._room = room
        self._taken_back = room.state.taken_back
        self._snapshots: dict[int, Snapshot] = {}
        self._keys: dict[int, StateKey] = {}

    def add(self, one: _Checked) -> None:
        self.checked.append(one)
        if one.event.state_key is not None:
            self._keys[one.nid] = (one.event.type, one.event.state_key)
        if one.snapshot is not None:
            self._snapshots[one.nid] = one.snapshot
        if one.before is not None:
            passed = one.verdict.passed
            changes = passed and one.event.state_key is not None
            after = _State(ref_after(one.before.ref, one.nid, one.event)) if changes else one.before
            self.after[one.event.event_id] = after

    def check_line(self) -> None:
        """Raise RoomChanged if events of the line that the states are based on were taken back."""
        if self._room.state.taken_back != self._taken_back:
            raise RoomChanged

    async def step(self, nid: int, event: Event, states: GraphStates, entries: StateEntries) -> Snapshot | None:
        """Return the snapshot for an event whose only previous event is an accepted state event of this chunk."""
        if len(event.prev_event_ids) != 1:
            return None
        previous = next((one for one in self.checked if one.event.event_id == event.prev_event_ids[0]), None)
        if previous is None or previous.before is None or previous.before.snapshot_nid is None:
            return None
        key = self._keys.get(previous.nid)
        if key is None or not previous.verdict.passed:
            return None
        walk: list[Snapshot] = []
        at: int | None = previous.before.snapshot_nid
        while at is not None and at in self._snapshots:
            walk.append(self._snapshots[at])
            at = walk[-1].parent
        if at is not None:
            walk += await states.walk(self._room, at)
        added = [entry for one in walk for entry in one.added if entry not in self._keys]
        keys = {entry: found.key for entry, found in (await entries.by_nid(added)).items()}
        return step_snapshot(nid, walk, {**keys, **self._keys}, key, previous.nid)


class HistoryPlacing:
    def __init__(
        self, database: Database, committer: Committer, numbers: NumberBlock, resolution: RoomResolution
    ) -> None:
        self._database = database
        self._committer = committer
        self._numbers = numbers
        self._resolution = resolution
        self._states = GraphStates(database)

    async def place(
        self,
        room: LiveRoom,
        anchor: int,
        gaps: Mapping[int, Sequence[EventId]],
        events: Sequence[tuple[Event, int | None]],
        known: KnownEvents,
    ) -> PlacedHistory:
        """Place events in the gap before a live event. Their write is under way when this returns.

        gaps: anchor -> missing ids, of this gap and of others in which some of the events are missing.
        events: (event, number of the state before it if another server has given it), earliest first.
        The caller holds the room's turn. Raises RoomChanged.
        """
        placed = PlacedHistory()
        chunk = _Chunk(room)
        try:
            for event, state_before in events:
                absent = known.missing_auth(event)
                if absent:
                    placed.answers[event.event_id] = Received("missing", "auth events are missing", absent)
                    continue
                try:
                    one = await self._check(room, event, state_before, known, chunk)
                except RoomParked as error:
                    placed.answers[event.event_id] = Received("parked", str(error))
                    continue
                chunk.add(one)
                known.propose(one.known, one.awaited)
            if chunk.checked:
                write = await self._write(room, anchor, gaps, chunk, known)
                placed.gaps = write.built[-1].graph.gaps
                placed.writes.update((one.event.event_id, (one.verdict, write)) for one in chunk.checked)
        finally:
            known.forget_proposed()
        return placed

    async def _check(
        self,
        room: LiveRoom,
        event: Event,
        state_before: int | None,
        known: KnownEvents,
        chunk: _Chunk,
    ) -> _Checked:
        await self._numbers.reserve(1)
        former = known.get(event.event_id)
        nid = former.event_nid if former is not None else self._numbers.take()
        verdict, auth_nids = known.check_auth_events(event)
        before = await self._before(room, event, state_before, known, chunk)
        levels = room.state.power_levels
        if verdict.passed and before is not None:
            verdict, levels = await self._check_state(room, event, before.ref, known)
        snapshot = None
        if before is not None and before.snapshot_nid is None:
            if len(before.ref.changes) > SMALL_OVERLAY:
                snapshot = await chunk.step(nid, event, self._states, StateEntries(room, self._database))
            snapshot = snapshot or snapshot_of_ref(room, nid, before.ref)
            before = _State(before.ref, nid)
        target, awaited = await known.redacted_by(event, levels) if verdict.passed else (None, None)
        return _Checked(
            event=event,
            nid=nid,
            auth_nids=auth_nids,
            verdict=verdict,
            before=before,
            snapshot=snapshot,
            redacts=target,
            awaited=awaited,
            promotes=former is not None,
        )

    async def _check_state(
        self, room: LiveRoom, event: Event, ref: StateRef, known: KnownEvents
    ) -> tuple[Verdict, PowerLevels]:
        keys = auth_types_for(
            room.version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content,
        )
        keys = list({*keys, POWER_LEVELS})
        await self._resolution.load(
            room, lambda: room.state.missing_of(keys, partly_upon_current(room, ref, keys)), known
        )
        before = partly_upon_current(room, ref, keys)
        levels = room.state.power_levels_in(before)
        state = room.state.auth_state(before, keys)
        return check_state_before(room.version, event, state, room.create, power_levels=levels), levels

    async def _before(
        self,
        room: LiveRoom,
        event: Event,
        given: int | None,
        known: KnownEvents,
        chunk: _Chunk,
    ) -> _State | None:
        """Return the state before an event of history, None if too few of the events before it are known."""
        states: list[_State] = []
        complete = bool(event.prev_event_ids)
        for event_id in event.prev_event_ids:
            if event_id in chunk.after:
                states.append(chunk.after[event_id])
            elif (previous := known.get(event_id)) is not None and previous.is_placed:
                snapshot_nid = previous.state_nid if previous.key is None else None
                states.append(_State(await self._states.after(room, previous), snapshot_nid))
            else:
                complete = False
        if not complete:
            if given is None:
                return None
            states.append(_State(await self._states.given(room, given, known), given))
        if len(states) == 1 or (states[0].snapshot_nid is not None and len({one.snapshot_nid for one in states}) == 1):
            return states[0]
        return await self._resolved(room, states, known)

    async def _resolved(self, room: LiveRoom, states: Sequence[_State], known: KnownEvents) -> _State:
        """Return the resolution of states. The room's writes wait until these are upon one current state."""
        base: dict[StateKey, EventId] = {}
        async with room.hold():
            await room.finish_writes()  # a commit would change the state while it is copied
            head = room.state.head
            branches = [Branch(await upon_current(room, one.ref), one.snapshot_nid) for one in states]
            overlays = list(dict.fromkeys(branch.overlay for branch in branches))
            if len(overlays) > 1:
                for number, (key, entry) in enumerate(room.state.entries(), 1):
                    base[key] = entry.event_id
                    if number % _COPIED_AT_ONCE == 0:
                        await asyncio.sleep(0)
        overlay = await self._resolution.resolve(room, overlays, known, base=base)
        return _State(StateRef(head.ordinal + 1, overlay, NO_CHANGE, 0), snapshot_of(overlay, branches))

    async def _write(
        self,
        room: LiveRoom,
        anchor: int,
        gaps: Mapping[int, Sequence[EventId]],
        chunk: _Chunk,
        known: KnownEvents,
    ) -> Write:
        last_back = await get_last_back(self._database, room.room_nid, anchor)
        for tries in range(_FREE_TRIES + 1):
            async with nullcontext() if tries < _FREE_TRIES else room.hold():
                head = room.state.head
                try:
                    ends = await self._ends(room, gaps[anchor], chunk.checked, known)
                except RoomChanged:
                    continue
                except RoomParked:
                    ends = head  # the extremities stay until the room is resolved again
                if room.state.head is head:
                    # From here to the end nothing waits.
                    chunk.check_line()
                    return self._take_places(room, anchor, gaps, chunk.checked, ends, last_back, known)
        raise RoomChanged

    def _take_places(
        self,
        room: LiveRoom,
        anchor: int,
        gaps: Mapping[int, Sequence[EventId]],
        checked: Sequence[_Checked],
        ends: Head,
        last_back: int,
        known: KnownEvents,
    ) -> Write:
        shown = sum(one.verdict.passed for one in checked)
        built: list[BuiltEvent] = []
        for one in checked:
            back = None
            if one.verdict.passed:
                back = last_back + shown  # the earliest lies furthest back
                shown -= 1
            now_missing = _missing_now(anchor, gaps, checked, known) if one is checked[-1] else {}
            built.append(self._built(one, ends, (anchor, back), now_missing, known))
        write = placed_write(room, built)
        room.take(write)
        known.note(write)
        self._committer.submit(write)
        return write

    async def _ends(
        self, room: LiveRoom, missing: Sequence[EventId], checked: Sequence[_Checked], known: KnownEvents
    ) -> Head:
        """Return the room's head without the extremities that accepted history follows, since live events follow it.

        If the current state would change by that, they stay: it changes at live events only. The next live event
        names all extremities and so ends them.
        """
        head, reached, followed = room.state.head, set(missing), set[EventId]()
        for one in reversed(checked):
            if one.event.event_id in reached:
                reached.update(one.event.prev_event_ids)
                followed.update(one.event.prev_event_ids if one.verdict.passed else ())
        ends = tuple(extremity for extremity in head.extremities if extremity[1] not in followed)
        if not ends or len(ends) == len(head.extremities):
            return head
        branches = {nid: head.branches[nid] for nid, _ in ends}
        if await self._resolution.resolve(room, [branch.overlay for branch in branches.values()], known):
            return head
        return head._replace(extremities=ends, branches=branches if len(ends) > 1 else {})

    def _built(
        self,
        one: _Checked,
        head: Head,
        place: tuple[int, int | None],
        gaps: Mapping[int, Sequence[EventId]],
        known: KnownEvents,
    ) -> BuiltEvent:
        event = one.event
        anchor, back = place
        graph = Graph(
            status=ACCEPTED if one.verdict.passed else REJECTED,
            anchor=None if back is None else anchor,
            back=back,
            state_nid=None if one.before is None else one.before.snapshot_nid,
            snapshot=one.snapshot,
            gaps=gaps,
            # An event without a place in the history lies in no gap that will be filled.
            is_after_gap=back is None and bool(known.missing(event.prev_event_ids)),
            redacted_by=known.redaction_of(event),
            awaited=one.awaited,
            was_awaited=known.was_awaited(event),
            promotes=one.promotes,
        )
        return BuiltEvent(
            event=event,
            event_nid=one.nid,
            ordinal=None,
            prev_nids=known.previous(event),
            auth_nids=one.auth_nids,
            redacts_nid=None if one.redacts is None else one.redacts.event_nid,
            redacts_sender=None if one.redacts is None else one.redacts.sender,
            membership=entry_of(one.nid, event).membership if event.is_state else None,
            head=head,
            graph=graph,
        )


def _missing_now(
    anchor: int, gaps: Mapping[int, Sequence[EventId]], checked: Sequence[_Checked], known: KnownEvents
) -> dict[int, list[EventId]]:
    """Return the ids that the gaps lack once these events are stored: of this gap the ids that they name too."""
    here = {one.event.event_id for one in checked}
    named = sorted({event_id for one in checked for event_id in one.event.prev_event_ids})
    missing = {anchor: known.without_place([*gaps[anchor], *named])}
    others = {at: ids for at, ids in gaps.items() if at != anchor and not here.isdisjoint(ids)}
    missing.update((at, known.without_place(ids)) for at, ids in others.items())
    return {at: [event_id for event_id in ids if event_id not in here] for at, ids in missing.items()}
