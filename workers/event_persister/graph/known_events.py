"""The events that other events name, whether they are stored, in memory, or still being written."""

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from shared.core.event_auth import auth_types_for
from shared.core.event_checks import Verdict, check_auth_events_of
from shared.core.events import Event, event_from_storage
from shared.core.events.readers import PowerLevels, membership_of
from shared.core.identifiers import EventId, is_event_id
from shared.storage.engine.pool import Source
from shared.storage.events.batch import OUTLIER, REJECTED
from shared.storage.events.graph import GraphEvent, get_awaited_redactions, get_graph_events, get_graph_events_by_nid
from shared.storage.removal.purge_statements import RETIRED
from workers.event_persister.room.drafts import (
    NO_CHANGE,
    BuiltEvent,
    RedactionTarget,
    RoomChanged,
    StateEntry,
    StateKey,
)
from workers.event_persister.room.event_forms import redacted
from workers.event_persister.room.live_room import LiveRoom, Write

#: Number of a state -> its differences from the line before an ordinal, and that ordinal.
GivenStates: TypeAlias = dict[int, tuple[int, dict[StateKey, StateEntry | None]]]

#: Events that are read and parsed at once: some 10 ms.
_PAGE = 200


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event of the room.

    event: the redacted form if it is redacted.
    status, ordinal, anchor, state_nid: as in the table `events`.
    is_stored: True if the database has it already.
    """

    event_nid: int
    event: Event
    status: int
    ordinal: int | None
    anchor: int | None
    state_nid: int | None
    is_stored: bool

    @property
    def key(self) -> StateKey | None:
        return None if self.event.state_key is None else (self.event.type, self.event.state_key)

    @property
    def is_placed(self) -> bool:
        """True if the state before it is known: it is no mere outlier, and was not purged from the timeline.

        A purged event keeps its ordinal, but the room's line does not have the state of that time any more.
        """
        in_timeline = self.status not in (OUTLIER, RETIRED)
        return in_timeline and (self.ordinal is not None or self.state_nid is not None)

    @property
    def lacks_place(self) -> bool:
        """True if it may still get a place in the graph, since it was only stored for its content."""
        return self.status in (OUTLIER, REJECTED) and not self.is_placed and self.anchor is None

    @property
    def may_be_followed_by_a_step(self) -> bool:
        """True if the state after it is a snapshot and its own change."""
        return self.state_nid is not None and self.key is not None and not self.is_rejected

    @property
    def is_rejected(self) -> bool:
        return self.status == REJECTED

    def entry(self) -> StateEntry:
        return entry_of(self.event_nid, self.event)


def entry_of(event_nid: int, event: Event) -> StateEntry:
    """Return the entry that a state event makes."""
    membership = membership_of(event) if event.type == "m.room.member" else None
    return StateEntry(event_nid, event.event_id, membership)


def known_from_row(room: LiveRoom, row: GraphEvent) -> KnownEvent:
    event = event_from_storage(room.version, row.json, row.event_id)
    if row.redacted_by is not None:
        event = redacted(room.version, event)
    return KnownEvent(row.event_nid, event, row.status, row.ordinal, row.anchor, row.state_nid, is_stored=True)


def known_from_built(built: BuiltEvent) -> KnownEvent:
    graph = built.graph
    return KnownEvent(
        built.event_nid, built.event, graph.status, built.ordinal, graph.anchor, graph.state_nid, is_stored=False
    )


class KnownEvents:
    """The events of a room that one call has found, by id. `look_up` tries memory first, then makes one query."""

    def __init__(
        self,
        room: LiveRoom,
        source: Source,
        given_states: GivenStates | None = None,
        rejections: Mapping[EventId, Verdict] | None = None,
    ) -> None:
        """Begin with no event.

        given_states: states that the call has read, by number. They are used again when a place is found again.
        rejections: verdicts on events that have failed check 4 already.
        """
        self.given_states: GivenStates = {} if given_states is None else given_states
        self._rejections = rejections or {}
        self._room = room
        self._source = source
        self._found: dict[str, KnownEvent] = {}
        self._proposed: dict[str, KnownEvent] = {}
        self._placed: dict[str, tuple[BuiltEvent, Write]] = {}
        self._redactions: dict[str, list[KnownEvent]] = {}  # event id -> redactions that came before it

    def get(self, event_id: EventId) -> KnownEvent | None:
        """Return the event with its latest place, None if it was not found. Events of failed writes are not found."""
        built = self._room.state.built_event(event_id)
        if built is not None:
            return known_from_built(built)
        if event_id in self._placed:
            built, write = self._placed[event_id]
            # Our own events may have been built again with other ids.
            if write.is_stored and (not write.drafts or any(one is built for one in write.built)):
                return replace(known_from_built(built), is_stored=True)
        return self._proposed.get(event_id) or self._found.get(event_id)

    def propose(self, known: KnownEvent, awaited: str | None) -> None:
        """Add an event that is about to get its place. awaited: the id of the event that it redacts, if unknown."""
        self._proposed[known.event.event_id] = known
        if awaited is not None:
            self._redactions.setdefault(awaited, []).append(known)

    def forget_proposed(self) -> None:
        self._proposed.clear()

    def add(self, known: KnownEvent) -> None:
        """Add an event that has just been stored."""
        self._found[known.event.event_id] = known

    def note(self, write: Write) -> None:
        """Add events that have just got their places."""
        for built in write.built:
            self._placed[built.event.event_id] = (built, write)
            if built.graph.awaited is not None:
                self._redactions.setdefault(built.graph.awaited, []).append(known_from_built(built))

    async def look_up(self, event_ids: Iterable[EventId]) -> None:
        """Find these events."""
        missing = []
        for event_id in dict.fromkeys(event_ids):
            built = self._room.state.built_event(event_id)
            if built is None:
                if self.get(event_id) is None:
                    missing.append(event_id)
            elif event_id not in self._placed and (write := self._room.write_of(built.event_nid)) is not None:
                self._placed[event_id] = (built, write)  # it may be stored by the time that `get` is called
        for first in range(0, len(missing), _PAGE):
            page = missing[first : first + _PAGE]
            for row in await get_graph_events(self._source, self._room.room_nid, page):
                self._found[row.event_id] = known_from_row(self._room, row)
            await asyncio.sleep(0)

    def accepted(self, event_id: EventId) -> Event | None:
        """Return an event that was looked up and not rejected. Any thread may call this."""
        known = self.get(event_id)
        return None if known is None or known.is_rejected else known.event

    async def look_up_redactions(self, event_ids: Sequence[EventId]) -> None:
        """Find the redactions that came before these events."""
        awaited = await get_awaited_redactions(self._source, self._room.room_nid, event_ids)
        if awaited:
            redactions = await self.entries([nid for nids in awaited.values() for nid in nids])
            for event_id, nids in awaited.items():
                self._redactions[event_id] = [redactions[nid] for nid in nids]
                self._found.update((redactions[nid].event.event_id, redactions[nid]) for nid in nids)

    def was_awaited(self, event: Event) -> bool:
        """Return True if redactions of the event came before it."""
        return event.event_id in self._redactions

    def previous(self, event: Event) -> list[int]:
        """Return the numbers of the event's previous events, as far as they are known here."""
        at_the_end = {event_id: nid for nid, event_id in self._room.state.head.extremities}
        nids = []
        for event_id in event.prev_event_ids:
            found = self.get(event_id)
            nid = found.event_nid if found is not None else at_the_end.get(event_id)
            if nid is not None:
                nids.append(nid)
        return nids

    def redaction_of(self, event: Event) -> int | None:
        """Return the number of the redaction that came before the event and takes effect on it."""
        own = RedactionTarget(0, event.event_id, event.sender)
        for redaction in self._redactions.get(event.event_id, ()):
            is_here = self.get(redaction.event.event_id) is not None  # if not, its write has failed
            if is_here and self._room.builder.applies_redaction(redaction.event, own):
                return redaction.event_nid
        return None

    async def redacted_by(self, event: Event, levels: PowerLevels) -> tuple[RedactionTarget | None, str | None]:
        """Return the event that this one redacts, or the id of the one that it will redact when it comes.

        levels: at the event.
        """
        if event.redacts is None or not is_event_id(event.redacts):
            return None, None
        await self.look_up([event.redacts])
        found = self.get(event.redacts)
        if found is None:
            return None, event.redacts
        target = RedactionTarget(found.event_nid, found.event.event_id, found.event.sender)
        return (target if self._room.builder.applies_redaction(event, target, levels) else None), None

    async def entries(self, event_nids: Sequence[int]) -> dict[int, KnownEvent]:
        """Return events by number. Raises RoomChanged if one is gone."""
        found: dict[int, KnownEvent] = {}
        for nid in event_nids:
            if (built := self._room.state.built_with(nid)) is not None:
                found[nid] = known_from_built(built)
        stored = list({nid for nid in event_nids if nid not in found})
        for first in range(0, len(stored), _PAGE):
            page = stored[first : first + _PAGE]
            rows = await get_graph_events_by_nid(self._source, self._room.room_nid, page)
            found.update((row.event_nid, known_from_row(self._room, row)) for row in rows)
            await asyncio.sleep(0)
        if not found.keys() >= set(event_nids):
            raise RoomChanged
        return found

    def auth_events(self, event: Event) -> tuple[list[Event], list[int], set[EventId]]:
        """Return the event's auth events, their numbers, and the ids of those that were rejected.

        Events that are not found are left out. Members of the current state come as stubs, which is all that the rules
        read of them.
        """
        room = self._room
        current: dict[str, tuple[int, Event]] = {}
        keys = auth_types_for(
            room.version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content,
        )
        at_hand = [key for key in keys if not room.state.missing_of([key], NO_CHANGE)]
        for key, auth_event in room.state.auth_state(NO_CHANGE, at_hand).items():
            entry = room.state.entry(*key)
            assert entry is not None
            current[entry.event_id] = (entry.event_nid, auth_event)
        events: list[Event] = []
        nids: list[int] = []
        rejected: set[EventId] = set()
        for event_id in event.auth_event_ids:
            if event_id in current:
                nid, auth_event = current[event_id]
            elif event_id == room.create.event_id and room.state.create_nid is not None:
                nid, auth_event = room.state.create_nid, room.create
            elif (known := self.get(event_id)) is not None:
                nid, auth_event = known.event_nid, known.event
                if known.is_rejected:
                    rejected.add(event_id)
            else:
                continue
            events.append(auth_event)
            nids.append(nid)
        return events, nids, rejected

    def check_auth_events(self, event: Event) -> tuple[Verdict, list[int]]:
        """Return the verdict of check 4, and the numbers of the event's auth events."""
        auth_events, auth_nids, rejected = self.auth_events(event)
        verdict = self._rejections.get(event.event_id)
        if verdict is None:
            room = self._room
            verdict = check_auth_events_of(room.version, event, auth_events, rejected=rejected, create=room.create)
        return verdict, auth_nids

    def missing(self, event_ids: Iterable[EventId]) -> list[EventId]:
        """Return those of the ids that were not found."""
        extremities, create = self._extremities(), self._room.create.event_id
        return [e for e in event_ids if e not in extremities and e != create and self.get(e) is None]

    def without_place(self, event_ids: Iterable[EventId]) -> list[EventId]:
        """Return those of the ids that have no place in the graph: not found, or stored for their content only."""
        extremities, create = self._extremities(), self._room.create.event_id
        return [
            event_id
            for event_id in dict.fromkeys(event_ids)
            if event_id not in extremities
            and event_id != create
            and ((known := self.get(event_id)) is None or known.lacks_place)
        ]

    def missing_auth(self, event: Event) -> list[EventId]:
        """Return those of the event's auth events that were not found."""
        found = {auth_event.event_id for auth_event in self.auth_events(event)[0]}
        return [event_id for event_id in event.auth_event_ids if event_id not in found]

    def missing_previous(self, event: Event) -> list[EventId]:
        """Return those of the event's previous events after which the state is unknown here."""
        extremities = self._extremities()
        return [
            event_id
            for event_id in event.prev_event_ids
            if event_id not in extremities and ((known := self.get(event_id)) is None or not known.is_placed)
        ]

    def _extremities(self) -> set[EventId]:
        return {event_id for _, event_id in self._room.state.head.extremities}
