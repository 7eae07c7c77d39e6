"""Taking in events of other servers: which of them get a place in the timeline, in history, or none.

Formats, signatures and hashes (checks 1 to 3) are the caller's; here they are judged by the room's rules, stored, and
the caller is told what became of each. Asking again is harmless: an event that is stored gets the same answer.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from shared.core.errors import EventFormatError, MatrixError, Unavailable
from shared.core.event_checks import Outcome, Verdict, check_auth_events_of
from shared.core.events import Event, parse_event
from shared.storage.event_statements import ACCEPTED, OUTLIER, REJECTED, SOFT_FAILED
from shared.storage.numbers import NumberBlock
from shared.storage.pool import Database
from shared.storage.room_graph import get_gaps
from workers.event_persister.committer import Committer
from workers.event_persister.drafts import BuiltEvent, Graph, RoomChanged, Write
from workers.event_persister.history import HistoryPlacing
from workers.event_persister.known_events import KnownEvent, KnownEvents, entry_of
from workers.event_persister.live_room import LiveRoom
from workers.event_persister.placing import Candidate, Placing
from workers.event_persister.received import Received, ReceivedAs, ReceivedPdu

_TRIES = 3
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
}


@dataclass(frozen=True, slots=True)
class _Incoming:
    event: Event
    pdu: ReceivedPdu


class Receiving:
    """look_after: called with a room that has taken in events."""

    def __init__(
        self,
        database: Database,
        committer: Committer,
        numbers: NumberBlock,
        placing: Placing,
        history: HistoryPlacing,
        look_after: Callable[[LiveRoom], None],
    ) -> None:
        self._look_after = look_after
        self._database = database
        self._committer = committer
        self._numbers = numbers
        self._placing = placing
        self._history = history

    async def receive(self, room: LiveRoom, pdus: Sequence[ReceivedPdu]) -> dict[str, Received]:
        """Take in events; return event id -> what became of it, once that is stored.

        Raises Unavailable, RoomLost. A PDU that has no valid form is left out of the answer: it has no id.
        """
        incoming: dict[str, _Incoming] = {}
        for pdu in pdus:
            try:
                event = parse_event(room.version, bytes(pdu.pdu))
            except EventFormatError:
                continue
            if event.room_id == room.room_id:
                incoming[event.event_id] = _Incoming(event, pdu)
        answers: dict[str, Received] = {}
        self._committer.check_room_for_more()
        async with room.intake:
            for _ in range(_TRIES):
                left = {event_id: one for event_id, one in incoming.items() if event_id not in answers}
                if not left:
                    break
                answers.update(await self._receive(room, left))
            if any(event_id not in answers for event_id in incoming):
                raise Unavailable("The room changes too quickly")
        self._look_after(room)
        return answers

    async def _receive(self, room: LiveRoom, incoming: Mapping[str, _Incoming]) -> dict[str, Received]:
        known = KnownEvents(room, self._database)
        named = [
            event_id
            for one in incoming.values()
            for event_id in (*one.event.prev_event_ids, *one.event.auth_event_ids, *(one.pdu.state_before or ()))
        ]
        await known.look_up([*incoming, *named])
        await known.look_up_redactions(list(incoming))
        gaps = await get_gaps(self._database, room.room_nid)
        anchors = {event_id: anchor for anchor, missing in gaps.items() for event_id in missing}
        answers: dict[str, Received] = {}
        writes: dict[str, tuple[Verdict, Write]] = {}
        history: dict[int, list[_Incoming]] = {}
        ordered = _in_order(incoming)
        for event_id in incoming.keys() - {one.event.event_id for one in ordered}:
            answers[event_id] = Received("dropped", "it names itself, by way of others")
        for one in ordered:
            event_id = one.event.event_id
            former = known.get(event_id)
            if former is not None and (former.status != OUTLIER or one.pdu.outlier):
                answers[event_id] = _answer_of(former)
                continue
            anchor = one.pdu.anchor if one.pdu.anchor in gaps else anchors.get(event_id)
            if anchor is not None and not one.pdu.outlier:
                history.setdefault(anchor, []).append(one)
                for previous in one.event.prev_event_ids:
                    anchors.setdefault(previous, anchor)
                continue
            received = await self._take(room, one, known, writes)
            if received is not None:
                answers[event_id] = received
        for anchor, some in history.items():
            events = [(one.event, one.pdu.state_before) for one in some]
            placed = await self._history.place(room, anchor, gaps[anchor], events, known)
            writes.update(placed.writes)
            answers.update(placed.answers)
        answers.update(await _stored(writes))
        return answers

    async def _take(
        self, room: LiveRoom, one: _Incoming, known: KnownEvents, writes: dict[str, tuple[Verdict, Write]]
    ) -> Received | None:
        """Give an event its place. Returns what became of it where nothing is under way to the database."""
        event = one.event
        missing_auth = known.missing_auth(event)
        if missing_auth:
            return Received("missing", "auth events are missing", missing_auth)
        if one.pdu.outlier:
            writes[event.event_id] = await self._take_outlier(room, event, known)
            return None
        missing = known.missing_previous(event)
        if missing and one.pdu.state_before is None:
            return Received("missing", "previous events are missing", missing)
        unknown_state = known.missing(one.pdu.state_before or ())
        if missing and unknown_state:
            return Received("missing", "events of the state before it are missing", unknown_state)
        placed = await self._placing.place(room, Candidate(event, state_before=one.pdu.state_before), known)
        if placed.write is None:
            return received(placed.verdict)
        writes[event.event_id] = (placed.verdict, placed.write)
        return None

    async def _take_outlier(self, room: LiveRoom, event: Event, known: KnownEvents) -> tuple[Verdict, Write]:
        """Store an event without a place: some other event's auth event, or part of a state."""
        await self._numbers.reserve(1)
        auth_events, auth_nids, rejected = known.auth_events(event)
        verdict = check_auth_events_of(room.version, event, auth_events, rejected=rejected, create=room.create)
        nid = self._numbers.take()
        membership = entry_of(nid, event).membership if event.is_state else None
        graph = Graph(OUTLIER if verdict.passed else REJECTED)
        built = BuiltEvent(event, nid, None, (), auth_nids, None, None, membership, room.head, graph=graph)
        write = Write(room, (), (), asyncio.get_running_loop().create_future(), built=[built])
        room.take(write)
        known.note(built)
        self._committer.submit(write)
        return verdict, write


def _in_order(incoming: Mapping[str, _Incoming]) -> list[_Incoming]:
    """Return the events as they came, but each after those of the batch that it names.

    Events in a circle, and those that name one of them, are left out.
    """
    names = {
        event_id: [
            name
            for name in (*one.event.prev_event_ids, *one.event.auth_event_ids, *(one.pdu.state_before or ()))
            if name in incoming
        ]
        for event_id, one in incoming.items()
    }
    ordered: list[_Incoming] = []
    done: dict[str, bool] = {}  # False: under way
    for first in incoming:
        pending = [first]
        while pending:
            event_id = pending[-1]
            if event_id in done:
                pending.pop()
                if not done[event_id] and all(done[name] for name in names[event_id]):
                    done[event_id] = True
                    ordered.append(incoming[event_id])
                continue
            done[event_id] = False
            pending += [name for name in reversed(names[event_id]) if name not in done]
    return ordered


async def _stored(writes: Mapping[str, tuple[Verdict, Write]]) -> dict[str, Received]:
    """Wait for the database. What must be worked out again is left out of the answer."""
    answers: dict[str, Received] = {}
    for event_id, (verdict, write) in writes.items():
        try:
            await write.wait()
        except RoomChanged:
            continue
        except Unavailable:
            raise
        except MatrixError as error:
            # The database refuses it: in room versions 1 and 2 another room's event may have its id.
            answers[event_id] = Received("dropped", error.message)
            continue
        answers[event_id] = received(verdict)
    return answers


def received(verdict: Verdict) -> Received:
    """Return the answer for an event that was judged."""
    return Received(_OUTCOMES[verdict.outcome], " ".join(part for part in (verdict.rule, verdict.reason) if part))


def _answer_of(known: KnownEvent) -> Received:
    return Received(_STATUSES[known.status])
