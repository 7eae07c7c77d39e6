"""Places for events that are not simply the next one: events of other servers, and our own that were built earlier.

An event that names all forward extremities has the room's current state before it. Any other event is on a branch. The
state before it is found, the event is checked against that state and the current one, and the room's new state is
resolved over all branches. Meanwhile the room's own writes go on. If one of them was faster, the work is done again.
After some tries the room's writes wait for it.

Spec: server-server API, "Checks performed on receipt of a PDU", 4 to 7; "Rejection"; "Soft failure".
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from shared.core.event_auth import auth_types_for
from shared.core.event_checks import (
    Outcome,
    Verdict,
    check_current_state,
    check_policy_signature,
    check_state_before,
)
from shared.core.events import Event
from shared.core.events.readers import PowerLevels
from shared.core.identifiers import EventId, UserId
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.events.batch import ACCEPTED, REJECTED, SOFT_FAILED
from workers.event_persister.commit.committer import Committer
from workers.event_persister.graph.branch_resolution import RoomResolution
from workers.event_persister.graph.known_events import KnownEvent, KnownEvents, entry_of
from workers.event_persister.graph.state_entries import StateEntries
from workers.event_persister.graph.states import (
    SMALL_OVERLAY,
    GraphStates,
    StateRef,
    branch_after,
    root_snapshot,
    snapshot_of,
    step_snapshot,
    upon_current,
)
from workers.event_persister.loading.push_rules import PushRules
from workers.event_persister.room.drafts import (
    NO_CHANGE,
    Branch,
    BuiltEvent,
    Draft,
    EntryChange,
    Graph,
    Head,
    Overlay,
    RedactionTarget,
    RoomChanged,
)
from workers.event_persister.room.live_room import LiveRoom, Write, placed_write
from workers.event_persister.room.room_state import KEPT_TYPES, MEMBER

#: Tries beside the room's writes. After so many were overtaken by a write, the room's writes wait.
_FREE_TRIES = 3
_MAX_TRIES = 8
_CHANGES_AT_ONCE = 5000  # some 5 ms
_AT_ONCE = 20_000  # entries of states that are copied before other tasks get a turn

_STATUS = {Outcome.ACCEPT: ACCEPTED, Outcome.SOFT_FAIL: SOFT_FAILED, Outcome.REJECT: REJECTED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """An event that needs a place.

    draft: the draft of an event of ours, which is refused rather than soft-failed.
    key: the client's transaction of an event of ours.
    state_before: the number of the whole state before it, which another server has named, if its previous events are
        not all known.
    """

    event: Event
    draft: Draft | None = None
    key: bytes | None = None
    state_before: int | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """verdict: of the checks. write: the write that stores it, None if it is not to be stored."""

    verdict: Verdict
    write: Write | None = None


@dataclass(frozen=True, slots=True)
class _Before:
    """The state before an event.

    overlay: upon the current state.
    is_line: True if the event names all extremities, so that it is the current state.
    snapshot_nid: the snapshot of that state, if it is stored already.
    previous: the only previous event, if there is one.
    ref: the state after `previous`, unless that is an extremity.
    missing: previous events that have no place here.
    """

    overlay: Overlay
    is_line: bool = False
    snapshot_nid: int | None = None
    previous: KnownEvent | None = None
    ref: StateRef | None = None
    missing: Sequence[EventId] = ()


class Placing:
    """Gives events their places. push_rules: loads the rules of users who come in."""

    def __init__(
        self,
        database: Database,
        committer: Committer,
        numbers: NumberBlock,
        resolution: RoomResolution,
        push_rules: PushRules,
    ) -> None:
        self._push_rules = push_rules
        self._database = database
        self._committer = committer
        self._numbers = numbers
        self._resolution = resolution
        self._states = GraphStates(database)

    async def place(self, room: LiveRoom, candidate: Candidate, known: KnownEvents) -> Placed:
        """Check an event and give it its place. Its write is under way when this returns.

        known: has looked up the event itself, its previous events and auth events.
        The caller holds the room's turn, so that only the room's own writes may come in between.
        Raises Unavailable, RoomLost (from the committer), RoomChanged if the room changed again and again.
        """
        for tries in range(_MAX_TRIES):
            try:
                if tries < _FREE_TRIES:
                    return await self._try(room, candidate, known)
                async with room.hold():
                    return await self._try(room, candidate, known)
            except RoomChanged:
                await room.finish_writes()  # an event that is needed may be on its way to the database
        raise RoomChanged

    async def _try(self, room: LiveRoom, candidate: Candidate, known: KnownEvents) -> Placed:
        event = candidate.event
        head = room.state.head
        before = await self._state_before(room, candidate, known)
        verdict, auth_nids, levels = await self._check(room, candidate, before, known)
        if verdict.outcome is Outcome.DROP or (candidate.draft is not None and not verdict.passed):
            return Placed(verdict)
        former = known.get(event.event_id)
        # Reserved just before it is taken: others take numbers during every wait.
        await self._numbers.reserve(1)
        nid = former.event_nid if former is not None else self._numbers.take()
        graph = await self._graph(room, nid, before, verdict, known)
        if before.missing:
            graph = replace(graph, is_after_gap=True)
        if known.was_awaited(event):
            graph = replace(graph, was_awaited=True, redacted_by=known.redaction_of(event))
        if verdict.passed:
            await asyncio.sleep(0)  # each of these steps may walk a whole state
            if room.state.head is not head:
                raise RoomChanged
            after = await self._current_after(room, event, nid, before, known)
            target, graph = await _redaction(event, levels, known, graph)
            graph = await self._with_brought(room, graph, after[0], nid, known)
            changes = await _changes(room, after[0])
            if room.state.head is not head:
                raise RoomChanged
            built = self._live(
                room,
                candidate,
                nid=nid,
                before=before,
                auth_nids=auth_nids,
                graph=graph,
                changes=changes,
                branches=after[1],
                target=target,
                known=known,
            )
            while (lacking := room.state.push.lacking_for(built)) is not None:
                await self._push_rules.load(room, lacking)
                if room.state.head is not head:
                    raise RoomChanged
        else:
            if room.state.head is not head:
                raise RoomChanged
            built = self._unplaced(room, event, nid, auth_nids, graph, known)
        write = placed_write(room, [built], candidate.key)
        room.take(write)
        known.note(write)
        self._committer.submit(write)
        return Placed(verdict, write)

    # -- the state before

    async def _state_before(self, room: LiveRoom, candidate: Candidate, known: KnownEvents) -> _Before:
        event, head = candidate.event, room.state.head
        if {event_id for _, event_id in head.extremities} == set(event.prev_event_ids):
            return _Before(NO_CHANGE, is_line=True)
        previous = [known.get(event_id) for event_id in event.prev_event_ids]
        stored = [one for one in previous if one is not None and one.is_placed]
        absent = [e for e, one in zip(event.prev_event_ids, previous, strict=True) if one is None or not one.is_placed]
        if absent and candidate.state_before is None:
            raise RoomChanged  # a previous event could not be stored
        refs = {
            one.event_nid: await self._states.after(room, one) for one in stored if one.event_nid not in head.branches
        }
        given = None
        if candidate.state_before is not None and absent:
            given = await self._states.given(room, candidate.state_before, known)
        branches = [
            head.branches[one.event_nid]
            if one.event_nid in head.branches
            else Branch(await upon_current(room, refs[one.event_nid]), one.state_nid if one.key is None else None)
            for one in stored
        ]
        if given is not None:
            branches.append(Branch(await upon_current(room, given), candidate.state_before))
        overlay = await self._resolution.resolve(room, [branch.overlay for branch in branches], known)
        if room.state.head is not head:
            raise RoomChanged
        only = stored[0] if len(branches) == 1 and given is None else None
        ref = None if only is None else refs.get(only.event_nid)
        return _Before(overlay, False, snapshot_of(overlay, branches), only, ref, known.without_place(absent))

    # -- checks 4 to 7

    async def _check(
        self, room: LiveRoom, candidate: Candidate, before: _Before, known: KnownEvents
    ) -> tuple[Verdict, list[int], PowerLevels]:
        """Return the verdict, the numbers of the auth events, and the power levels at the event."""
        event, head = candidate.event, room.state.head
        verdict, auth_nids = known.check_auth_events(event)
        if not verdict.passed:
            return verdict, auth_nids, room.state.power_levels
        keys = auth_types_for(
            room.version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content,
        )
        await self._resolution.load(
            room, lambda: room.state.missing_of(keys, before.overlay) | room.state.missing_of(keys, NO_CHANGE), known
        )
        if room.state.head is not head:
            raise RoomChanged
        levels = room.state.power_levels_in(before.overlay)
        state = room.state.auth_state(before.overlay, keys)
        verdict = check_state_before(room.version, event, state, room.create, power_levels=levels)
        if verdict.passed and not before.is_line:
            state = room.state.auth_state(NO_CHANGE, keys)
            verdict = check_current_state(room.version, event, state, room.create, power_levels=room.state.power_levels)
        if verdict.passed:
            verdict = check_policy_signature(room.version, event, room.state.policy_server())
        return verdict, auth_nids, levels

    # -- the state after

    async def _current_after(
        self, room: LiveRoom, event: Event, nid: int, before: _Before, known: KnownEvents
    ) -> tuple[Overlay, dict[int, Branch]]:
        """Return the room's state after the event, as an overlay upon the current one, and the branches upon it."""
        own = branch_after(Branch(before.overlay, before.snapshot_nid), nid, event)
        head = room.state.head
        named = set(event.prev_event_ids)
        others = [ext for ext in head.extremities if ext[1] not in named]
        if not others:
            return own.overlay, {}
        branches = {ext: head.branches.get(ext, Branch(NO_CHANGE)) for ext, _ in others}
        changed = await self._changed_current(room, event, own, branches, known)
        branches[nid] = own
        return changed, await _upon(room, changed, branches) if changed else branches

    async def _changed_current(
        self, room: LiveRoom, event: Event, own: Branch, branches: Mapping[int, Branch], known: KnownEvents
    ) -> Overlay:
        states = {branch.overlay: None for branch in branches.values()}
        states[own.overlay] = None
        former = {branch.overlay for branch in room.state.head.branches.values()} or {NO_CHANGE}
        if states.keys() == former:
            return NO_CHANGE  # the same states as before have the same resolution
        return await self._resolution.resolve(room, list(states), known, candidate=event)

    # -- building

    async def _graph(self, room: LiveRoom, nid: int, before: _Before, verdict: Verdict, known: KnownEvents) -> Graph:
        status = _STATUS[verdict.outcome]
        if before.is_line and status == ACCEPTED:
            return Graph()
        if before.snapshot_nid is not None:
            return Graph(status=status, state_nid=before.snapshot_nid)
        head = room.state.head
        snapshot = None
        previous = before.previous
        if len(before.overlay) > SMALL_OVERLAY and previous is not None and previous.may_be_followed_by_a_step:
            assert previous.state_nid is not None and previous.key is not None
            walk = await self._states.walk(room, previous.state_nid)
            entries = StateEntries(room, self._database)
            found = await entries.by_nid(added for one in walk for added in one.added)
            keys = {added: one.key for added, one in found.items()}
            snapshot = step_snapshot(nid, walk, keys, previous.key, previous.event_nid)
        if room.state.head is not head:
            raise RoomChanged
        return Graph(
            status=status, state_nid=nid, snapshot=snapshot or root_snapshot(room, nid, before.overlay, before.ref)
        )

    def _unplaced(
        self, room: LiveRoom, event: Event, nid: int, auth_nids: Sequence[int], graph: Graph, known: KnownEvents
    ) -> BuiltEvent:
        """Return a rejected or soft-failed event. It changes nothing in the room."""
        return BuiltEvent(
            event=event,
            event_nid=nid,
            ordinal=None,
            prev_nids=known.previous(event),
            auth_nids=auth_nids,
            membership=entry_of(nid, event).membership if event.is_state else None,
            head=room.state.head,
            graph=graph,
        )

    def _live(
        self,
        room: LiveRoom,
        candidate: Candidate,
        *,
        nid: int,
        before: _Before,
        auth_nids: Sequence[int],
        graph: Graph,
        changes: Sequence[EntryChange],
        branches: Mapping[int, Branch],
        target: RedactionTarget | None,
        known: KnownEvents,
    ) -> BuiltEvent:
        event, head = candidate.event, room.state.head
        ordinal = head.ordinal + 1
        named = set(event.prev_event_ids)
        extremities = (*(ext for ext in head.extremities if ext[1] not in named), (nid, event.event_id))
        replaced = next((c.before for c in changes if c.now is not None and c.now.event_nid == nid), None)
        if before.missing:
            graph = replace(graph, gaps={ordinal: tuple(before.missing)})
        former = known.get(event.event_id)
        if former is not None:
            graph = replace(graph, promotes=True)
        draft = candidate.draft
        return BuiltEvent(
            event=event,
            event_nid=nid,
            ordinal=ordinal,
            prev_nids=known.previous(event),
            auth_nids=auth_nids,
            replaces_nid=None if replaced is None else replaced.event_nid,
            redacts_nid=None if target is None else target.event_nid,
            redacts_sender=None if target is None else target.sender,
            membership=entry_of(nid, event).membership if event.is_state else None,
            head=Head(extremities, max(head.depth, event.depth), ordinal, branches if len(extremities) > 1 else {}),
            changes=changes,
            device=None if draft is None else draft.device,
            txn_id=None if draft is None else draft.txn_id,
            graph=graph,
        )

    async def _with_brought(
        self, room: LiveRoom, graph: Graph, changed: Overlay, nid: int, known: KnownEvents
    ) -> Graph:
        """Return the graph with the events that enter the state together with this one.

        There may be tens of thousands, so whole ones are read only of those that the room keeps, and of local members.
        """
        nids = [entry.event_nid for entry in changed.values() if entry is not None and entry.event_nid != nid]
        if not nids:
            return graph
        found = await StateEntries(room, self._database).by_nid(nids)
        whole = [
            number
            for number, one in found.items()
            if one.key[0] in KEPT_TYPES or (one.key[0] == MEMBER and room.state.push.is_local(UserId(one.key[1])))
        ]
        events = await known.entries(whole)
        return replace(
            graph,
            brought={number: one.event for number, one in events.items()},
            senders={number: one.sender for number, one in found.items()},
        )


async def _changes(room: LiveRoom, overlay: Overlay) -> list[EntryChange]:
    """Return the changes of the current state, by key. They are right while the head does not change."""
    changes: list[EntryChange] = []
    for number, (key, entry) in enumerate(sorted(overlay.items()), 1):
        changes.append(EntryChange(key, room.state.entry(*key), entry))
        if number % _CHANGES_AT_ONCE == 0:
            await asyncio.sleep(0)
    return changes


async def _upon(room: LiveRoom, changed: Overlay, branches: Mapping[int, Branch]) -> dict[int, Branch]:
    """Return the branches as overlays upon the current state after it has changed. Raises RoomChanged."""
    head = room.state.head
    changes = {key: (room.state.entry(*key), entry) for key, entry in changed.items()}
    rebased: dict[Overlay, Overlay] = {}
    entries = 0
    for branch in branches.values():
        if branch.overlay in rebased:
            continue
        rebased[branch.overlay] = branch.overlay.rebased(changes)
        entries += len(changes) + len(branch.overlay)
        if entries > _AT_ONCE:
            entries = 0
            await asyncio.sleep(0)
            if room.state.head is not head:
                raise RoomChanged
    return {nid: Branch(rebased[branch.overlay], branch.snapshot_nid) for nid, branch in branches.items()}


async def _redaction(
    event: Event, levels: PowerLevels, known: KnownEvents, graph: Graph
) -> tuple[RedactionTarget | None, Graph]:
    """Return the event that this one redacts. If that is unknown yet, the graph gets its id."""
    target, awaited = await known.redacted_by(event, levels)
    return target, graph if awaited is None else replace(graph, awaited=awaited)
