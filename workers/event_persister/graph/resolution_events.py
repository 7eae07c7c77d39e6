"""The events that a state resolution reads: from the room's memory, a cache, or the database.

Loaded events are lean: of the PDU they keep only what the authorization rules may read. The engine holds all events
that it replays, perhaps 100,000 of them.
"""

import dataclasses
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from shared.cache.byte_budget import ByteBudgetCache
from shared.cache.sizes import json_size
from shared.core.errors import Unavailable
from shared.core.events import Event, event_from_storage
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.storage.events.auth_chains import ChainEvent
from workers.event_persister.room.event_forms import redacted

#: (event ids, number of events including their chains) -> rows, as `get_auth_chain_page`.
Fetch = Callable[[Sequence[EventId], int], Sequence[ChainEvent]]

#: The least size of a lean event, and what a whole one has beside the content.
_LEAN_BYTES, _LEFT_OUT_BYTES = 700, 1_200
_PAGE_EVENTS = 500  # read by id at once, and as many again of their chains
_MIN_REACH = 4
_GRANT_BYTES = 1 << 20  # taken from the budget at once


class NotAtHand(Exception):
    """An event must be loaded, or the run is too long for this place. It continues in another one."""


class TooMuch(Unavailable):
    """The resolution needs more events or bytes than is allowed, and will when it is tried again."""


class NoMemory(Unavailable):
    """Other resolutions have taken the process's budget."""


class TooLong(Unavailable):
    """The resolution takes more time than is allowed. It may be the machine's fault, or the database's."""


class ResolutionBudget:
    """The bytes that the events of all resolutions of this process may take. Several threads use it."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.taken_bytes = 0
        self.lock = threading.Lock()


class BudgetShare:
    """What one resolution has taken of the budget."""

    def __init__(self, budget: ResolutionBudget) -> None:
        self._budget = budget
        self._granted = 0
        self._closed = False

    def cover(self, size_bytes: int) -> None:
        """Let the share cover so many bytes.

        Raises TooMuch if the whole budget is smaller, NoMemory if others have taken it, Stopped if it is closed.
        """
        if size_bytes <= self._granted:
            return
        budget = self._budget
        if size_bytes > budget.max_bytes:
            raise TooMuch("The room's forks reach too far back to be resolved", retry_after_s=60.0)
        with budget.lock:
            if self._closed:
                raise Stopped
            count = min(max(_GRANT_BYTES, size_bytes - self._granted), budget.max_bytes - self._granted)
            if budget.taken_bytes + count > budget.max_bytes:
                raise NoMemory("Other rooms are being resolved, and memory is short. Try again later", 5.0)
            budget.taken_bytes += count
            self._granted += count

    def close(self) -> None:
        """Give everything back."""
        with self._budget.lock:
            self._closed = True
            self._budget.taken_bytes -= self._granted
            self._granted = 0


class Stopped(Exception):
    """The caller does not wait for the result any more."""


@dataclass(frozen=True, slots=True)
class RoomForResolution:
    """A room whose states are to be resolved.

    known: returns an event that the room has in memory, redacted if it is redacted, and never a rejected one. It is
        called from other threads, so it is a look-up in a dictionary and nothing else.
    """

    room_nid: int
    version: RoomVersion
    create: Event
    known: Callable[[EventId], Event | None]


class LoadedEvent(NamedTuple):
    event: Event
    rejected: bool
    size_bytes: int


class EventCache:
    """Loaded events of all rooms, within a budget. Several threads use it.

    A redaction changes an event, so `forget` must be called with its id. Events that were being loaded meanwhile are
    not kept (`generation`).
    """

    def __init__(self, budget_bytes: int) -> None:
        self._lock = threading.Lock()
        self._cache: ByteBudgetCache[EventId, LoadedEvent] = ByteBudgetCache(budget_bytes)
        self.generation = 0

    def get(self, event_id: EventId) -> LoadedEvent | None:
        with self._lock:
            return self._cache.get(event_id)

    def put(self, loaded: Iterable[LoadedEvent], generation: int) -> None:
        """Keep events that were read in this generation."""
        for entry in loaded:
            with self._lock:
                if self.generation == generation:
                    self._cache.put(entry.event.event_id, entry, entry.size_bytes)

    def forget(self, event_ids: Iterable[EventId]) -> None:
        with self._lock:
            self.generation += 1
            for event_id in event_ids:
                self._cache.pop(event_id)


class RoomEvents:
    """Answers the engine's questions in one resolution: `find`, `rejected`, `expect`.

    `move` says where it runs; events that were found stay.
    max_events: of events taken from cache and database. Beyond them TooMuch is raised.
    budget: for their bytes. If this resolution alone would exceed it, TooMuch is raised, else Unavailable.
    `close` must be called at the end.
    """

    def __init__(
        self, room: RoomForResolution, cache: EventCache, *, max_events: int, budget: ResolutionBudget
    ) -> None:
        self._room = room
        self._cache = cache
        self._max_events = max_events
        self._share = BudgetShare(budget)
        self._bytes = 0
        self._loaded = 0
        self._found: dict[EventId, Event | None] = {}
        self._rejected: set[EventId] = set()
        self._soon: OrderedDict[EventId, None] = (
            OrderedDict()
        )  # will be asked for, most likely, and are not at hand perhaps
        self._reach = _MIN_REACH  # how many events of the chains are loaded along with those asked for
        self._lookups = 0
        self._check: Callable[[int], None] = _no_check
        self._fetch: Fetch | None = None

    def move(self, check: Callable[[int], None], fetch: Fetch | None) -> None:
        """Say where the resolution runs now.

        check: called at each look-up with their number. It raises an exception to end the run.
        fetch: None where waiting is not allowed. A miss then raises NotAtHand.
        """
        self._check, self._fetch = check, fetch
        self._lookups = 0

    def find(self, event_id: EventId) -> Event | None:
        self._lookups += 1
        self._check(self._lookups)
        event = self._found.get(event_id)
        if event is not None or event_id in self._found:
            return event
        if not self._take(event_id):
            if self._fetch is None:
                raise NotAtHand
            self._load(event_id, self._fetch)
        return self._found[event_id]

    def release(self) -> None:
        """Release all events one by one. Freeing 300,000 at once would hold up the other threads for 0.1 s."""
        while self._found:
            self._found.popitem()
        while self._soon:
            self._soon.popitem()

    def close(self) -> None:
        """Give the bytes back. The run ends at its next event."""
        self._share.close()

    def rejected(self, event_id: EventId) -> bool:
        return event_id in self._rejected

    def expect(self, event_ids: Sequence[EventId]) -> None:
        # Before those noted earlier: the engine names events just before it reads them.
        for event_id in reversed(event_ids):
            self._soon[event_id] = None
            self._soon.move_to_end(event_id, last=False)

    def _take(self, event_id: EventId) -> bool:
        """Move the event to `_found` if it is at hand. Return whether it is."""
        event = self._room.known(event_id)
        if event is not None:
            self._found[event_id] = event
            return True
        cached = self._cache.get(event_id)
        if cached is not None:
            self._hold(cached)
        return cached is not None

    def _load(self, event_id: EventId, fetch: Fetch) -> None:
        wanted = [event_id, *islice(self._not_at_hand(event_id), _PAGE_EVENTS - 1)]
        generation = self._cache.generation
        rows = fetch(wanted, len(wanted) + self._reach)
        loaded = []
        for row in rows:
            if row.json is not None and row.event_id not in self._found:
                loaded.append(_loaded(self._room.version, row, row.json))
                self._hold(loaded[-1])
        there = {row.event_id for row in rows}
        for asked in wanted:
            if asked not in there:
                self._found[asked] = None
            elif asked not in self._found:
                self._soon[asked] = None  # no room in the page
        self._cache.put(loaded, generation)
        # More of the chains if they brought new events, so that a long one takes few pages; less if all were known.
        along, new = len(rows) - len(there.intersection(wanted)), len(loaded) - len(wanted)
        self._reach = min(_PAGE_EVENTS, self._reach * 2) if 2 * new >= along else max(_MIN_REACH, self._reach // 2)

    def _not_at_hand(self, but: EventId) -> Iterable[EventId]:
        """Take from `_soon` and yield the events that must be loaded."""
        while self._soon:
            event_id, _ = self._soon.popitem(last=False)
            if event_id != but and event_id not in self._found and not self._take(event_id):
                yield event_id

    def _hold(self, loaded: LoadedEvent) -> None:
        event = loaded.event
        self._found[event.event_id] = event
        if loaded.rejected:
            self._rejected.add(event.event_id)
        for cited in event.auth_event_ids:
            if cited not in self._found:
                self._soon[cited] = None
        self._loaded += 1
        self._bytes += loaded.size_bytes
        if self._loaded > self._max_events:
            raise TooMuch("The room's forks reach too far back to be resolved", retry_after_s=60.0)
        self._share.cover(self._bytes)


def _no_check(lookups: int) -> None:
    """Let the run go on."""


def _loaded(version: RoomVersion, row: ChainEvent, json: bytes) -> LoadedEvent:
    event = event_from_storage(version, json, row.event_id)
    if row.redacted:
        event = redacted(version, event)
    return LoadedEvent(_lean(event), row.rejected, _size_bytes(json))


def _lean(event: Event) -> Event:
    """Return the event without the parts that resolution never reads.

    The rules on create events and on restricted joins read the PDU itself.
    """
    if event.type == "m.room.create" or "join_authorised_via_users_server" in event.content:
        return event
    return dataclasses.replace(event, pdu={}, encoded=b"")


def _size_bytes(json: bytes) -> int:
    return max(_LEAN_BYTES, json_size(json) - _LEFT_OUT_BYTES)
