"""Store events of other servers in bulk for their content only: auth events, and the parts of states.

They have no place in the timeline, so they need no order among the room's writes, and any process with a lease may
store them. Here they pass check 4: their auth events must allow them. What is here already is left alone.
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import asyncpg

from shared.core.errors import Unavailable
from shared.core.event_checks import Verdict, check_auth_events_of
from shared.core.events import Event, event_from_storage
from shared.core.events.readers import membership_of
from shared.core.events.reference_order import in_reference_order
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database, NotWritten
from shared.storage.events.batch import OUTLIER, REJECTED
from shared.storage.events.graph import get_awaited_redactions, get_graph_events
from shared.storage.events.outliers import OutlierToStore, store_outliers
from shared.storage.events.state_entries import StateEntryRow, get_state_entries

_MAX_BATCH_EVENTS = 500  # of one statement: some 50 ms of PostgreSQL, in which no other write of the process begins
_MAX_BATCH_BYTES = 4 << 20
_IDS_AT_ONCE = 1000
_PARSED_AT_ONCE = 200  # events that are read and parsed before other tasks get a turn: some 5 ms
_CHECKED_AT_ONCE = 50


@dataclass(frozen=True, slots=True)
class OutlierRoom:
    """The room of the events. create: its create event, even before it is stored."""

    room_nid: int
    version: RoomVersion
    create: Event


class StoredOutlier(NamedTuple):
    """An event that is stored now. verdict: None if it was here before. status: as in the table `events`."""

    event_nid: int
    status: int
    verdict: Verdict | None


@dataclass(slots=True)
class OutlierOutcomes:
    """The outcome of each event.

    stored: the events that are in the database now.
    missing: for the others, the auth events that must be stored first.
    circular: ids of events that are among their own auth or previous events, and of those that name one.
    refused: ids of events that the database refuses.
    awaited: ids of events that are left to the room's owner, since a redaction of them came first.
    """

    stored: dict[EventId, StoredOutlier] = field(default_factory=dict)
    missing: dict[EventId, list[EventId]] = field(default_factory=dict)
    circular: set[EventId] = field(default_factory=set)
    refused: set[EventId] = field(default_factory=set)
    awaited: set[EventId] = field(default_factory=set)


class _Named(NamedTuple):
    """An event that others name as an auth event."""

    nid: int
    event: Event
    is_rejected: bool


class OutlierStore:
    """numbers: of the sequence `event_nids`."""

    def __init__(self, database: Database, write: FencedWrite, numbers: NumberBlock) -> None:
        self._database = database
        self._write = write
        self._numbers = numbers

    async def store(
        self, room: OutlierRoom, events: Sequence[Event], rejections: Mapping[EventId, Verdict] | None = None
    ) -> OutlierOutcomes:
        """Store events of one room that have passed checks 1 to 3, in any order. Raises Unavailable.

        rejections: verdicts on events that have failed check 4 already.
        An event whose auth events are neither stored nor among these is not stored. The call may be repeated.
        """
        run = _Run(room, rejections or {})
        ordered = run.in_order(events)
        await self._look_up(run, {*(e.event_id for e in ordered), *_named(ordered, previous=True)})
        ids = [event.event_id for event in ordered if event.event_id not in run.rows]
        run.outcomes.awaited = {
            EventId(one) for one in await get_awaited_redactions(self._database, room.room_nid, ids)
        }
        inside = {event.event_id for event in ordered}
        await self._read_auth_events(run, [one for one in _named(ordered, previous=False) if one not in inside])
        for batch in _batches(ordered):
            await self._store(run, batch)
        return run.outcomes

    async def _look_up(self, run: "_Run", event_ids: Iterable[EventId]) -> None:
        wanted = list(event_ids)
        for first in range(0, len(wanted), _IDS_AT_ONCE):
            page = wanted[first : first + _IDS_AT_ONCE]
            rows = await get_state_entries(self._database, run.room.room_nid, page)
            run.rows.update((row.event_id, row) for row in rows)
            await asyncio.sleep(0)

    async def _read_auth_events(self, run: "_Run", event_ids: Sequence[EventId]) -> None:
        for first in range(0, len(event_ids), _PARSED_AT_ONCE):
            page = event_ids[first : first + _PARSED_AT_ONCE]
            for row in await get_graph_events(self._database, run.room.room_nid, page):
                event = event_from_storage(run.room.version, row.json, row.event_id)
                run.named[row.event_id] = _Named(row.event_nid, event, row.status == REJECTED)
            await asyncio.sleep(0)

    async def _store(self, run: "_Run", events: Sequence[Event]) -> None:
        """Store a batch. If it is refused, look what others have stored meanwhile, then store it in halves."""
        await self._numbers.reserve(len(events))
        built: list[tuple[OutlierToStore, Verdict]] = []
        for number, event in enumerate(events):
            if number % _CHECKED_AT_ONCE == _CHECKED_AT_ONCE - 1:
                await asyncio.sleep(0)
                await self._numbers.reserve(len(events) - number)
            if (checked := run.check(event, self._numbers)) is not None:
                built.append(checked)
        if not built:
            return
        try:
            await store_outliers(self._write, [row for row, _ in built])
        except NotWritten as error:
            raise Unavailable("The database cannot store the events just now") from error
        except asyncpg.PostgresError:
            await self._store_what_is_left(run, events, [row.event_id for row, _ in built])
            return
        for row, verdict in built:
            run.outcomes.stored[row.event_id] = StoredOutlier(row.event_nid, row.status, verdict)

    async def _store_what_is_left(self, run: "_Run", events: Sequence[Event], refused: Sequence[EventId]) -> None:
        for event_id in refused:
            run.named.pop(event_id, None)
        await self._look_up(run, refused)
        if any(event_id in run.rows for event_id in refused):
            await self._store(run, events)
        elif len(refused) == 1:
            # In room versions 1 and 2 an event of another room may have the same id.
            run.outcomes.refused.add(refused[0])
        else:
            middle = len(events) // 2
            await self._store(run, events[:middle])
            await self._store(run, events[middle:])


class _Run:
    """One call: what is known of the events and of those that they name."""

    def __init__(self, room: OutlierRoom, rejections: Mapping[EventId, Verdict]) -> None:
        self.room = room
        self._rejections = rejections
        self.outcomes = OutlierOutcomes()
        self.rows: dict[EventId, StateEntryRow] = {}  # what is stored
        self.named: dict[EventId, _Named] = {}

    def in_order(self, events: Sequence[Event]) -> list[Event]:
        """Return the events, each after those that it names. Events in a circle, or that name one, are left out."""
        by_id = {event.event_id: event for event in events}
        names = {event_id: (*event.auth_event_ids, *event.prev_event_ids) for event_id, event in by_id.items()}
        ordered, self.outcomes.circular = in_reference_order(names)
        return [by_id[event_id] for event_id in ordered]

    def check(self, event: Event, numbers: NumberBlock) -> tuple[OutlierToStore, Verdict] | None:
        """Return an event as it will be stored, None if it need not, or cannot, be stored."""
        event_id = event.event_id
        row = self.rows.get(event_id)
        if row is not None:
            if event_id not in self.outcomes.stored:
                self.outcomes.stored[event_id] = StoredOutlier(row.event_nid, row.status, None)
            self.named[event_id] = _Named(row.event_nid, event, row.status == REJECTED)
            return None
        outcomes = self.outcomes
        if event_id in outcomes.stored or event_id in outcomes.awaited or event_id in outcomes.refused:
            return None
        absent = [name for name in event.auth_event_ids if name not in self.named]
        if absent:
            self.outcomes.missing[event_id] = absent
            return None
        named = {name: self.named[name] for name in event.auth_event_ids}
        verdict = self._rejections.get(event_id) or check_auth_events_of(
            self.room.version,
            event,
            [one.event for one in named.values()],
            rejected={name for name, one in named.items() if one.is_rejected},
            create=self.room.create,
        )
        previous = [self._nid(name) for name in event.prev_event_ids]
        built = OutlierToStore(
            room_nid=self.room.room_nid,
            event_nid=numbers.take(),
            event_id=event_id,
            depth=event.depth,
            type=event.type,
            state_key=event.state_key,
            sender=event.sender,
            origin_server_ts=event.origin_server_ts,
            status=OUTLIER if verdict.passed else REJECTED,
            gap=not verdict.passed and None in previous,
            prev_nids=[nid for nid in previous if nid is not None],
            auth_nids=[one.nid for one in named.values()],
            json=event.encoded,
            membership=membership_of(event) if verdict.passed and event.type == "m.room.member" else None,
        )
        self.named[event_id] = _Named(built.event_nid, event, not verdict.passed)
        return built, verdict

    def _nid(self, event_id: EventId) -> int | None:
        if (row := self.rows.get(event_id)) is not None:
            return row.event_nid
        named = self.named.get(event_id)
        return None if named is None else named.nid


def _named(events: Sequence[Event], *, previous: bool) -> set[EventId]:
    names = {name for event in events for name in event.auth_event_ids}
    return names.union(name for event in events for name in event.prev_event_ids) if previous else names


def _batches(events: Sequence[Event]) -> Iterator[list[Event]]:
    batch: list[Event] = []
    size = 0
    for event in events:
        if batch and (len(batch) >= _MAX_BATCH_EVENTS or size > _MAX_BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(event)
        size += len(event.encoded)
    if batch:
        yield batch
