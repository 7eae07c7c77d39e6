"""The events that a received one names, wherever they are: not stored yet, in memory, or in the database."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from shared.core.event_auth import auth_types_for
from shared.core.events import Event, event_from_storage
from shared.core.events.readers import membership_of
from shared.storage.event_statements import OUTLIER, REJECTED
from shared.storage.read_source import Source
from shared.storage.room_graph import GraphEvent, get_awaited_redactions, get_graph_events, get_graph_events_by_nid
from workers.event_persister.drafts import BuiltEvent, StateEntry, StateKey
from workers.event_persister.live_room import LiveRoom, redacted


@dataclass(frozen=True, slots=True)
class KnownEvent:
    """An event of the room. event: in its redacted form where it is redacted. status, ordinal, anchor, state_nid: as
    in the table `events`. is_stored: whether the database has it already."""

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
        """Whether the state before it is known: it is no mere outlier."""
        return self.status != OUTLIER and (self.ordinal is not None or self.state_nid is not None)

    @property
    def may_be_followed_by_a_step(self) -> bool:
        """Whether the state after it is a stored snapshot and its own change."""
        return self.is_stored and self.state_nid is not None and self.key is not None and not self.is_rejected

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
    """What one call has found of a room's events, by id. Memory is asked first, the database once per `look_up`."""

    def __init__(self, room: LiveRoom, source: Source) -> None:
        self._room = room
        self._source = source
        self._found: dict[str, KnownEvent] = {}
        #: event id -> its redaction, which came before it
        self.redactions: dict[str, KnownEvent] = {}

    def get(self, event_id: str) -> KnownEvent | None:
        """Return the event, if it was looked up, noted or is being stored."""
        known = self._found.get(event_id)
        if known is None:
            built = self._room.built_event(event_id)
            known = None if built is None else known_from_built(built)
        return known

    def note(self, built: BuiltEvent) -> None:
        """Take in an event that has just got its place."""
        self._found[built.event.event_id] = known_from_built(built)

    async def look_up(self, event_ids: Iterable[str]) -> None:
        """Find these events."""
        missing = [event_id for event_id in dict.fromkeys(event_ids) if self.get(event_id) is None]
        for row in await get_graph_events(self._source, self._room.room_nid, missing):
            self._found[row.event_id] = known_from_row(self._room, row)

    def accepted(self, event_id: str) -> Event | None:
        """Return an event that was looked up and not rejected. May be called from other threads."""
        known = self._found.get(event_id)
        return None if known is None or known.is_rejected else known.event

    async def look_up_redactions(self, event_ids: Sequence[str]) -> None:
        """Find the redactions that came before these events."""
        awaited = await get_awaited_redactions(self._source, self._room.room_nid, event_ids)
        if awaited:
            redactions = await self.entries(list(awaited.values()))
            self.redactions.update({e: redactions[nid] for e, nid in awaited.items() if nid in redactions})

    async def entries(self, event_nids: Sequence[int]) -> dict[int, KnownEvent]:
        """Return stored events by number."""
        rows = await get_graph_events_by_nid(self._source, self._room.room_nid, event_nids)
        return {row.event_nid: known_from_row(self._room, row) for row in rows}

    def auth_events(self, event: Event) -> tuple[list[Event], list[int], set[str]]:
        """Return the event's auth events, their numbers, and the ids of those that were rejected.

        What is not found is left out. Members of the current state come as stubs: the rules read no more of them.
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
        for key, auth_event in room.auth_state({}, [key for key in keys if not room.missing_of([key], {})]).items():
            entry = room.entry(*key)
            assert entry is not None
            current[entry.event_id] = (entry.event_nid, auth_event)
        events: list[Event] = []
        nids: list[int] = []
        rejected: set[str] = set()
        for event_id in event.auth_event_ids:
            if event_id in current:
                nid, auth_event = current[event_id]
            elif event_id == room.create.event_id and room.create_nid is not None:
                nid, auth_event = room.create_nid, room.create
            elif (known := self.get(event_id)) is not None:
                nid, auth_event = known.event_nid, known.event
                if known.is_rejected:
                    rejected.add(event_id)
            else:
                continue
            events.append(auth_event)
            nids.append(nid)
        return events, nids, rejected

    def missing(self, event_ids: Iterable[str]) -> list[str]:
        """Return those of the ids that the room does not have, as far as was looked up."""
        room = self._room
        extremities = {event_id for _, event_id in room.head.extremities}
        return [
            event_id
            for event_id in event_ids
            if event_id not in extremities and event_id != room.create.event_id and self.get(event_id) is None
        ]

    def missing_auth(self, event: Event) -> list[str]:
        """Return those of the event's auth events that the room does not have, as far as was looked up."""
        found = {auth_event.event_id for auth_event in self.auth_events(event)[0]}
        return [event_id for event_id in event.auth_event_ids if event_id not in found]

    def missing_previous(self, event: Event) -> list[str]:
        """Return those of the event's predecessors of which the state after them cannot be known here."""
        extremities = {event_id for _, event_id in self._room.head.extremities}
        return [
            event_id
            for event_id in event.prev_event_ids
            if event_id not in extremities and ((known := self.get(event_id)) is None or not known.is_placed)
        ]
