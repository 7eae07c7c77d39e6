"""The events to replay. Spec: rooms/v2 and rooms/v12, "Full conflicted set".

The conflicted events, and in 2.1 the events between them, follow from the overlays alone. The auth difference depends
on the agreed state too: events in the auth chain of an agreed event are in the chains of all states. Reading 50,000
agreed events and their history for that is too slow. So cheap proofs come first, then the search for events that do
not affect the result (`irrelevant_events.py`, `outcomes.py`), and the whole state is the last resort.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution.auth_chains import AuthDifference, AuthGraph, conflicted_subgraph, walk_chains
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import SplitStates
from shared.core.state_resolution.irrelevant_events import irrelevant_events
from shared.core.state_resolution.overlays import StateKey

#: Keys set by moderators. Such an event cites its sender's membership, and the power levels of its time.
_MODERATORS_KEYS = tuple(
    (f"m.room.{name}", "")
    for name in (
        "power_levels",
        "join_rules",
        "name",
        "topic",
        "avatar",
        "canonical_alias",
        "history_visibility",
        "guest_access",
        "encryption",
        "server_acl",
        "pinned_events",
    )
)

_PAGE = 500  # agreed events in one prefetch


@dataclass(frozen=True, slots=True)
class FullConflictedSet:
    """The full conflicted set, by numbers in the graph. Some events may be missing, or no state events.

    certain: events in the set, whatever the auth difference is.
    difference.doubtful: events that may be in the set. Others do not affect the result. After `settle` all of them
        are in the set.
    """

    certain: set[int]
    difference: AuthDifference
    _graph: AuthGraph
    _split: SplitStates
    _base: Mapping[StateKey, EventId]
    _prefetch: Callable[[Sequence[EventId]], None]

    def settle(self) -> None:
        """Decide for all doubtful events, with as much of the agreed state as needed. This is the last resort."""
        agreed = self._agreed()
        while self.difference.doubtful and (page := list(islice(agreed, _PAGE))):
            self._prefetch(page)
            self.difference.settle(map(self._graph.number_of, page))

    def _agreed(self) -> Iterator[EventId]:
        changes = self._split.unconflicted.changes
        yield from (event_id for event_id in changes.values() if event_id is not None)
        yield from (event_id for key, event_id in self._base.items() if key not in changes)


def find_full_conflicted_set(
    graph: AuthGraph,
    split: SplitStates,
    base: Mapping[StateKey, EventId],
    find: Callable[[EventId], Event | None],
    checks: AuthChecks,
    prefetch: Callable[[Sequence[EventId]], None],
    order_depends_on: Callable[[Mapping[int, Event], Mapping[int, Event]], bool],
    *,
    is_2_1: bool,
) -> FullConflictedSet:
    """Return the full conflicted set, with some events still in doubt. graph: an empty graph."""
    unconflicted = split.unconflicted
    prefetch(list(split.conflicted))
    holders = {graph.number_of(event_id): states for event_id, states in split.conflicted.items()}
    chains = walk_chains(graph, holders)
    certain = set(holders)
    if is_2_1:
        certain |= conflicted_subgraph(graph, chains, holders)
    difference = AuthDifference(graph, chains, holders, split.count)
    difference.doubtful -= certain  # these are replayed in any case
    # Cheap proofs: agreed events that the walk has reached; agreed events with the key of a doubtful one, since
    # memberships and power levels cite the events that they replace; and a few that cite moderators.
    difference.settle(list(graph.agreed))
    if difference.doubtful:
        doubtful = state_events(graph, find, difference.doubtful).values()
        keys = dict.fromkeys([*((event.type, event.state_key or "") for event in doubtful), *_MODERATORS_KEYS])
        agreed = [event_id for event_id in map(unconflicted.get, keys) if event_id is not None]
        prefetch(agreed)
        difference.settle(map(graph.number_of, agreed))
    if difference.doubtful and len(difference.doubtful) + len(certain) < len(base):
        possible = state_events(graph, find, certain | difference.doubtful)
        doubtful_events = difference.doubtful & possible.keys()
        difference.doubtful -= irrelevant_events(
            graph, checks, possible, doubtful_events, unconflicted, order_depends_on, starts_empty=is_2_1
        )
    return FullConflictedSet(certain, difference, graph, split, base, prefetch)


def state_events(graph: AuthGraph, find: Callable[[EventId], Event | None], numbers: Iterable[int]) -> dict[int, Event]:
    """Return the state events among the events that are not missing, by number."""
    found = {number: find(graph.ids[number]) for number in numbers}
    return {number: event for number, event in found.items() if event is not None and event.state_key is not None}
