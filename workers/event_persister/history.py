"""Placing events of history: what lies in a gap before a live event and was fetched later.

They change nothing of the room's present: no extremities, no current state. Each gets the place just before what is
known there already, and a snapshot of the state before it, as far as that can be known.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from shared.core.event_auth import auth_types_for
from shared.core.event_checks import Verdict, check_auth_events_of, check_state_before
from shared.core.events import Event
from shared.core.state_snapshots import Snapshot
from shared.storage.event_statements import ACCEPTED, REJECTED
from shared.storage.numbers import NumberBlock
from shared.storage.pool import Database
from shared.storage.room_graph import get_last_back
from workers.event_persister.committer import Committer
from workers.event_persister.drafts import Branch, BuiltEvent, Graph, Overlay, RoomChanged, Write
from workers.event_persister.graph_states import GraphStates, branch_after, given_state, root_snapshot, upon_current
from workers.event_persister.known_events import KnownEvents, entry_of
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.received import Received
from workers.event_persister.room_resolution import RoomResolution


@dataclass(slots=True)
class PlacedHistory:
    """writes: what stores the events, by their ids; answers: for those that cannot be judged yet."""

    writes: dict[str, tuple[Verdict, Write]] = field(default_factory=dict)
    answers: dict[str, Received] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Judged:
    event: Event
    nid: int
    auth_nids: Sequence[int]
    verdict: Verdict
    before: Branch | None  # the state before it, None: unknown
    snapshot: Snapshot | None


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
        missing: Sequence[str],
        events: Sequence[tuple[Event, Sequence[str] | None]],
        known: KnownEvents,
    ) -> PlacedHistory:
        """Place events in the gap before a live event; their write is under way when this returns.

        missing: what the gap lacks now. events: (event, ids of the state before it where the caller has them), earliest
        first. The caller holds the room's intake. Raises RoomChanged.
        """
        placed = PlacedHistory()
        judged: list[_Judged] = []
        after: dict[str, Branch] = {}
        async with room.hold():  # overlays of the whole chunk are upon one current state
            for event, state_before in events:
                absent = known.missing_auth(event)
                if absent:
                    placed.answers[event.event_id] = Received("missing", "auth events are missing", absent)
                    continue
                one = await self._judge(room, event, state_before, known, after)
                judged.append(one)
                if one.before is not None:
                    accepted = one.verdict.passed
                    after[event.event_id] = branch_after(one.before, one.nid, event) if accepted else one.before
            if judged:
                write = await self._write(room, anchor, missing, judged, known)
                placed.writes.update((one.event.event_id, (one.verdict, write)) for one in judged)
        return placed

    async def _judge(
        self,
        room: LiveRoom,
        event: Event,
        state_before: Sequence[str] | None,
        known: KnownEvents,
        after: Mapping[str, Branch],
    ) -> _Judged:
        await self._numbers.reserve(1)
        former = known.get(event.event_id)
        nid = former.event_nid if former is not None else self._numbers.take()
        auth_events, auth_nids, rejected = known.auth_events(event)
        verdict = check_auth_events_of(room.version, event, auth_events, rejected=rejected, create=room.create)
        before = await self._before(room, event, state_before, known, after)
        if verdict.passed and before is not None:
            keys = auth_types_for(
                room.version,
                type=event.type,
                sender=event.sender,
                state_key=event.state_key,
                content=event.content,
            )
            await self._resolution.load(room, room.missing_of(keys, before.overlay), known)
            levels = room.power_levels_in(before.overlay)
            state = room.auth_state(before.overlay, keys)
            verdict = check_state_before(room.version, event, state, room.create, power_levels=levels)
        snapshot = None
        if before is not None and before.snapshot_nid is None:
            snapshot = root_snapshot(room, nid, before.overlay)
            before = Branch(before.overlay, nid)
        return _Judged(event, nid, auth_nids, verdict, before, snapshot)

    async def _before(
        self,
        room: LiveRoom,
        event: Event,
        given: Sequence[str] | None,
        known: KnownEvents,
        after: Mapping[str, Branch],
    ) -> Branch | None:
        """Return the state before an event of history, None where too little of what precedes it is known."""
        branches: list[Branch] = []
        complete = bool(event.prev_event_ids)
        for event_id in event.prev_event_ids:
            if event_id in after:
                branches.append(after[event_id])
            elif (previous := known.get(event_id)) is not None and previous.is_placed:
                ref = await self._states.after(room, previous, known)
                snapshot_nid = previous.state_nid if previous.key is None else None
                branches.append(Branch(upon_current(room, ref), snapshot_nid))
            else:
                complete = False
        if not complete:
            if given is None or known.missing(given):
                return None
            branches.append(Branch(given_state(room, given, known)))
        if len(branches) == 1:
            return branches[0]
        overlays: list[Overlay] = [branch.overlay for branch in branches]
        return Branch(await self._resolution.resolve(room, overlays, known))

    async def _write(
        self, room: LiveRoom, anchor: int, missing: Sequence[str], judged: Sequence[_Judged], known: KnownEvents
    ) -> Write:
        head = room.head
        last_back = await get_last_back(self._database, room.room_nid, anchor)
        if room.head is not head:
            raise RoomChanged
        here = {one.event.event_id for one in judged}
        named = {event_id for one in judged for event_id in one.event.prev_event_ids}
        still = [event_id for event_id in (*missing, *sorted(named)) if event_id not in here]
        still = list(dict.fromkeys(event_id for event_id in still if known.missing([event_id])))
        shown = sum(one.verdict.passed for one in judged)
        built: list[BuiltEvent] = []
        for one in judged:
            back = None
            if one.verdict.passed:
                back = last_back + shown  # the earliest lies furthest back
                shown -= 1
            built.append(self._built(room, one, anchor, back, known))
        last = built[-1]
        graph = last.graph
        built[-1] = BuiltEvent(
            last.event, last.event_nid, None, last.prev_nids, last.auth_nids, None, None, last.membership, head,
            graph=Graph(
                graph.status, graph.anchor, graph.back, graph.state_nid, graph.snapshot, {anchor: still},
                redacted_by=graph.redacted_by, promotes=graph.promotes,
            ),
        )  # fmt: skip
        write = Write(room, (), (), asyncio.get_running_loop().create_future(), built=built)
        room.take(write)
        for done in built:
            known.note(done)
        self._committer.submit(write)
        return write

    def _built(self, room: LiveRoom, one: _Judged, anchor: int, back: int | None, known: KnownEvents) -> BuiltEvent:
        event = one.event
        former = known.get(event.event_id)
        redaction = known.redactions.get(event.event_id)
        graph = Graph(
            ACCEPTED if one.verdict.passed else REJECTED,
            None if back is None else anchor,
            back,
            None if one.before is None else one.before.snapshot_nid,
            one.snapshot,
            redacted_by=None if redaction is None else redaction.event_nid,
            promotes=former is not None,
        )
        membership = entry_of(one.nid, event).membership if event.is_state else None
        previous = [found.event_nid for event_id in event.prev_event_ids if (found := known.get(event_id)) is not None]
        return BuiltEvent(event, one.nid, None, previous, one.auth_nids, None, None, membership, room.head, graph=graph)
