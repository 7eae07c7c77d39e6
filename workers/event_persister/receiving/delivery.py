"""Receive events of other servers, and decide which get a place in the timeline, in history, or none.

The caller has checked formats, signatures and hashes (checks 1 to 3), which are not repeated here. Here events are
checked against the room's rules and stored. The answer says what became of each. A call can be repeated: an event that
is stored gets the same answer.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from replication.calls.received_events import Received, ReceivedAs, ReceivedPdu
from shared.core.errors import MatrixError, Unavailable, bad_json
from shared.core.event_checks import Outcome, Verdict, needs_policy_signature
from shared.core.event_checks.verdict import reject
from shared.core.events import Event, event_from_storage
from shared.core.events.reference_order import in_reference_order
from shared.core.identifiers import EventId
from shared.operations.store_outliers import OutlierRoom, OutlierStore
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.events.batch import ACCEPTED, OUTLIER, REJECTED, SOFT_FAILED
from shared.storage.events.graph import get_gaps_of
from shared.storage.events.state_entries import get_state_entries
from shared.storage.removal.purge_statements import RETIRED
from workers.event_persister.commit.committer import Committer, EventExists
from workers.event_persister.graph.dummy_events import DummyEvents
from workers.event_persister.graph.known_events import GivenStates, KnownEvent, KnownEvents, entry_of
from workers.event_persister.graph.parked_rooms import RoomParked
from workers.event_persister.graph.placement import Candidate, Placing
from workers.event_persister.graph.policy_signatures import PolicySignatures
from workers.event_persister.graph.states import GraphStates
from workers.event_persister.receiving.history_events import HistoryPlacing
from workers.event_persister.room.drafts import BuiltEvent, Graph, RoomChanged
from workers.event_persister.room.live_room import LiveRoom, Write, placed_write

_TRIES = 4
_PARSED_AT_ONCE = 20  # of up to 64 KiB each
_AT_ONCE = 20  # events that are handled before other tasks get a turn: some 5 ms
_OUTCOMES: Mapping[Outcome, ReceivedAs] = {
    Outcome.ACCEPT: "accepted",
    Outcome.SOFT_FAIL: "soft_failed",
    Outcome.REJECT: "rejected",
    Outcome.DROP: "dropped",
}
_STATUSES: Mapping[int, ReceivedAs] = {
    ACCEPTED: "accepted",
    SOFT_FAILED: "soft_failed",
    REJECTED: "rejected",
    OUTLIER: "accepted",
    RETIRED: "accepted",
}


@dataclass(frozen=True, slots=True)
class _Incoming:
    event: Event
    pdu: ReceivedPdu


class Receiving:
    """Receives events.

    outliers: stores those without a place in bulk.
    dummies: tie extremities together if events came in on many branches.
    """

    def __init__(
        self,
        *,
        database: Database,
        committer: Committer,
        numbers: NumberBlock,
        placing: Placing,
        history: HistoryPlacing,
        outliers: OutlierStore,
        signatures: PolicySignatures,
        dummies: DummyEvents,
    ) -> None:
        self._dummies = dummies
        self._database = database
        self._committer = committer
        self._numbers = numbers
        self._placing = placing
        self._history = history
        self._outliers = outliers
        self._states = GraphStates(database)
        self._signatures = signatures

    async def receive(self, room: LiveRoom, pdus: Sequence[ReceivedPdu]) -> dict[EventId, Received]:
        """Store events, and return event id -> what became of it.

        Events of other rooms are left out of the answer. Raises Unavailable, RoomLost.
        """
        incoming = await _parsed(room, pdus)
        answers: dict[EventId, Received] = {}
        given: GivenStates = {}
        self._committer.check_room_for_more()
        await self._ask_for_signatures(room, incoming)
        async with room.turns.take("deliveries"):
            for tries in range(_TRIES):
                left = {event_id: one for event_id, one in incoming.items() if event_id not in answers}
                if not left:
                    break
                try:
                    found = await self._receive(room, left, given, one_by_one=tries > 0)
                except RoomChanged:
                    await room.finish_writes()
                    continue
                if len(found) < len(left):
                    # A missing event may have been one of those that must be placed again.
                    found = {event_id: answer for event_id, answer in found.items() if answer.outcome != "missing"}
                answers.update(found)
            if any(event_id not in answers for event_id in incoming):
                raise Unavailable("The room changes too quickly. Try again")
            await self._dummies.tie(room)  # before the next call adds more
        return answers

    async def _receive(
        self, room: LiveRoom, incoming: Mapping[EventId, _Incoming], given: GivenStates, *, one_by_one: bool
    ) -> dict[EventId, Received]:
        """Try to place and store events. Those that must be placed again are left out of the answer.

        given: states before events that were read already.
        one_by_one: True to store each event before the next. One that the database refuses then fails alone.
        """
        known = KnownEvents(room, self._database, given, _rejections(incoming))
        await known.look_up([*incoming, *(event_id for one in incoming.values() for event_id in _names(one))])
        await known.look_up_redactions(list(incoming))
        ordered, circular = _in_order(incoming)
        answers: dict[EventId, Received] = {
            event_id: Received("dropped", "it is among its own previous or auth events") for event_id in circular
        }
        gaps: Mapping[int, Sequence[EventId]] = await get_gaps_of(
            self._database,
            room.room_nid,
            [one.pdu.anchor for one in ordered if one.pdu.anchor is not None],
            list(incoming),
        )
        anchors = _anchors(ordered, gaps, known)
        answers.update(await self._take_outliers(room, ordered, known))
        await self._answer_those_without_state(room, ordered, known, answers)
        writes: dict[EventId, tuple[Verdict, Write]] = {}
        chunks: dict[int, list[_Incoming]] = {}
        for number, one in enumerate(ordered):
            if number % _AT_ONCE == _AT_ONCE - 1:
                await asyncio.sleep(0)
                if not room.state.names_all_extremities:
                    await room.finish_writes()  # each write under way holds the states of all branches
            event_id = one.event.event_id
            if event_id in answers or self._is_here(one, known, answers):
                continue
            if event_id in anchors:
                chunks.setdefault(anchors[event_id], []).append(one)
                continue
            received = await self._take(room, one, known, writes)
            if received is not None:
                answers[event_id] = received
            elif one_by_one:
                await _finished(writes[event_id][1])
        for anchor, some in chunks.items():
            for part in [[one] for one in some] if one_by_one else [some]:
                events = [(one.event, one.pdu.state_before) for one in part]
                placed = await self._history.place(room, anchor, gaps, events, known)
                writes.update(placed.writes)
                answers.update(placed.answers)
                gaps = {**gaps, **placed.gaps}
                if one_by_one and placed.writes:
                    await _finished(next(iter(placed.writes.values()))[1])
                    stored = await get_gaps_of(self._database, room.room_nid, list(gaps), ())
                    gaps = {at: stored.get(at, []) for at in gaps}
        answers.update(await _stored(writes, self._database))
        return answers

    async def _ask_for_signatures(self, room: LiveRoom, incoming: dict[EventId, _Incoming]) -> None:
        """Get the signatures of the room's policy server, if it has one, for events of the live timeline."""
        policy = room.state.policy_server()
        if policy is None:
            return
        known = KnownEvents(room, self._database)
        await known.look_up(incoming)
        live = [
            one.event
            for one in incoming.values()
            if not one.pdu.outlier and one.pdu.anchor is None and needs_policy_signature(one.event)
        ]
        new = [event for event in live if (former := known.get(event.event_id)) is None or former.lacks_place]
        for event_id, event in (await self._signatures.signed_ones(room, new, policy)).items():
            incoming[event_id] = _Incoming(event, incoming[event_id].pdu)

    async def _take_outliers(
        self, room: LiveRoom, incoming: Sequence[_Incoming], known: KnownEvents
    ) -> dict[EventId, Received]:
        """Store the outliers in bulk, and return their answers. Those that a redaction precedes are left."""
        answers: dict[EventId, Received] = {}
        new = [one.event for one in incoming if one.pdu.outlier and not self._is_here(one, known, answers)]
        if not new:
            return answers
        to = OutlierRoom(room.room_nid, room.version, room.create)
        outcomes = await self._outliers.store(to, new, _rejections({one.event.event_id: one for one in incoming}))
        for event in new:
            event_id = event.event_id
            if (stored := outcomes.stored.get(event_id)) is not None:
                known.add(KnownEvent(stored.event_nid, event, stored.status, None, None, None, is_stored=True))
                answers[event_id] = (
                    Received(_STATUSES[stored.status]) if stored.verdict is None else received(stored.verdict)
                )
            elif event_id in outcomes.missing:
                answers[event_id] = Received("missing", "auth events are missing", outcomes.missing[event_id])
            elif event_id in outcomes.refused:
                answers[event_id] = Received("dropped", "the event cannot be stored")
        return answers

    async def _answer_those_without_state(
        self, room: LiveRoom, incoming: Sequence[_Incoming], known: KnownEvents, answers: dict[EventId, Received]
    ) -> None:
        """Read the states that other servers have given, and answer for new events whose state is not stored."""
        gone: set[int] = set()
        for nid in {one.pdu.state_before for one in incoming}:
            if nid is None or nid in known.given_states:
                continue
            try:
                await self._states.given(room, nid, known)
            except RoomChanged:
                gone.add(nid)
        for one in incoming:
            if one.pdu.state_before in gone and not self._is_here(one, known, answers):
                reason = "the state before it is not stored: give it again"
                answers[one.event.event_id] = Received("missing", reason, lacks_state=True)

    def _is_here(self, one: _Incoming, known: KnownEvents, answers: dict[EventId, Received]) -> bool:
        """Return True if the event is known. Adds its answer, unless it is not stored yet: then this round has none."""
        former = known.get(one.event.event_id)
        if former is None or (former.lacks_place and not one.pdu.outlier and one.event.prev_event_ids):
            return False
        if former.is_stored:
            answers[one.event.event_id] = _answer_of(former)
        return True

    async def _take(
        self, room: LiveRoom, one: _Incoming, known: KnownEvents, writes: dict[EventId, tuple[Verdict, Write]]
    ) -> Received | None:
        """Give an event its place. Returns its answer if no write is needed."""
        event = one.event
        missing_auth = known.missing_auth(event)
        if missing_auth:
            return Received("missing", "auth events are missing", missing_auth)
        if one.pdu.outlier or not event.prev_event_ids:
            writes[event.event_id] = await self._take_outlier(room, event, known, is_outlier=one.pdu.outlier)
            return None
        missing = known.missing_previous(event)
        if missing and one.pdu.state_before is None:
            return Received("missing", "previous events are missing", missing)
        try:
            placed = await self._placing.place(room, Candidate(event=event, state_before=one.pdu.state_before), known)
        except RoomParked as error:
            return Received("parked", str(error))
        if placed.write is None:
            return received(placed.verdict)
        writes[event.event_id] = (placed.verdict, placed.write)
        return None

    async def _take_outlier(
        self, room: LiveRoom, event: Event, known: KnownEvents, *, is_outlier: bool
    ) -> tuple[Verdict, Write]:
        """Store an event without a place: another event's auth event, or part of a state.

        is_outlier: False for an event without previous events that is not the room's create event. It is rejected.
        """
        await self._numbers.reserve(1)
        verdict, auth_nids = known.check_auth_events(event)
        if verdict.passed and not is_outlier:
            verdict = reject(5, "", "it follows no event")
        nid = self._numbers.take()
        membership = entry_of(nid, event).membership if event.is_state else None
        graph = Graph(
            status=OUTLIER if verdict.passed else REJECTED,
            is_after_gap=not verdict.passed and bool(known.missing(event.prev_event_ids)),
            redacted_by=known.redaction_of(event),
            was_awaited=known.was_awaited(event),
        )
        built = BuiltEvent(
            event=event,
            event_nid=nid,
            ordinal=None,
            prev_nids=known.previous(event),
            auth_nids=auth_nids,
            membership=membership,
            head=room.state.head,
            graph=graph,
        )
        write = placed_write(room, [built])
        room.take(write)
        known.note(write)
        self._committer.submit(write)
        return verdict, write


async def _parsed(room: LiveRoom, pdus: Sequence[ReceivedPdu]) -> dict[EventId, _Incoming]:
    incoming: dict[EventId, _Incoming] = {}
    for number, pdu in enumerate(pdus):
        try:
            event = event_from_storage(room.version, bytes(pdu.pdu), pdu.event_id)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise bad_json(f"{pdu.event_id} has not passed the checks of its format") from error
        # A call may have an event twice: as an outlier, and as an event that needs its place.
        if event.room_id == room.room_id and not (pdu.outlier and event.event_id in incoming):
            incoming[event.event_id] = _Incoming(event, pdu)
        if number % _PARSED_AT_ONCE == _PARSED_AT_ONCE - 1:
            await asyncio.sleep(0)
    return incoming


def _rejections(incoming: Mapping[EventId, _Incoming]) -> dict[EventId, Verdict]:
    """Return the verdicts on events that have failed check 4 already."""
    given = {event_id: one.pdu.rejection for event_id, one in incoming.items()}
    return {event_id: reject(4, *rejection) for event_id, rejection in given.items() if rejection is not None}


def _names(one: _Incoming) -> Sequence[EventId]:
    return (*one.event.prev_event_ids, *one.event.auth_event_ids)


def _anchors(ordered: Sequence[_Incoming], gaps: Mapping[int, Sequence[EventId]], known: KnownEvents) -> dict[str, int]:
    """Return event id -> the live event in whose gap it lies, for events of history. The earliest if there are several.

    Events that precede such an event, and are not known, are history too.
    """
    anchors: dict[str, int] = {}
    for anchor in sorted(gaps, reverse=True):
        anchors.update(dict.fromkeys(gaps[anchor], anchor))
    for one in reversed(ordered):
        event_id = one.event.event_id
        if one.pdu.outlier:
            anchors.pop(event_id, None)
            continue
        if event_id not in anchors and one.pdu.anchor is not None and one.pdu.anchor in gaps:
            anchors[event_id] = one.pdu.anchor
        if event_id in anchors:
            for previous in known.without_place(one.event.prev_event_ids):
                anchors[previous] = min(anchors[event_id], anchors.get(previous, anchors[event_id]))
    return anchors


async def _finished(write: Write) -> None:
    await asyncio.wait([write.done])


def _in_order(incoming: Mapping[EventId, _Incoming]) -> tuple[list[_Incoming], set[EventId]]:
    """Return the events as they came, but each after those of the call that it names.

    Events in a circle, and those that name one of these, are returned apart.
    """
    ordered, circular = in_reference_order({event_id: _names(one) for event_id, one in incoming.items()})
    return [incoming[event_id] for event_id in ordered], circular


async def _stored(writes: Mapping[EventId, tuple[Verdict, Write]], database: Database) -> dict[EventId, Received]:
    """Wait for the database. Events that must be placed again are left out of the answer."""
    answers: dict[EventId, Received] = {}
    for event_id, (verdict, write) in writes.items():
        try:
            await write.wait()
        except RoomChanged:
            continue
        except Unavailable:
            raise
        except EventExists:
            if len(write.built) > 1 or await _is_of_room(write, event_id, database):
                continue  # another process has stored it meanwhile: it is found when its place is found again
            # In room versions 1 and 2 an event of another room may have the same id.
            answers[event_id] = Received("dropped", "an event of another room has the same id")
            continue
        except MatrixError as error:
            if len(write.built) > 1:
                continue  # one event of the write is at fault: they are stored one by one
            # The database refuses it.
            answers[event_id] = Received("dropped", error.message)
            continue
        answers[event_id] = received(verdict)
    return answers


async def _is_of_room(write: Write, event_id: EventId, database: Database) -> bool:
    return bool(await get_state_entries(database, write.room.room_nid, [event_id]))


def received(verdict: Verdict) -> Received:
    """Return the answer for an event that was checked."""
    return Received(_OUTCOMES[verdict.outcome], " ".join(part for part in (verdict.rule, verdict.reason) if part))


def _answer_of(known: KnownEvent) -> Received:
    return Received(_STATUSES[known.status])
