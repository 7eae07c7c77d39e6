"""Which events are replayed. Spec: rooms/v2 and rooms/v12, "Full conflicted set".

The conflicted events, and in 2.1 what lies between them, come from the overlays alone. For the auth difference the
agreed state counts as well: what any agreed event has in its auth chain is in the chains of all states. Nobody wants
to read 50,000 agreed events and their history for that, so the question is put off: first cheap proofs, then the
events for which the answer changes nothing (`idle_events.py`, `outcomes.py`), and the whole state as the last resort.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution.auth_chains import AuthDifference, AuthGraph, conflicted_subgraph, walk_chains
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import SplitStates
from shared.core.state_resolution.idle_events import idle_events
from shared.core.state_resolution.overlays import StateKey

#: Keys that moderators set: such an event cites its sender's membership, and the power levels of its time.
_MODERATORS_KEYS = tuple(
    (f"m.room.{name}", "")
    for name in (
        "power_levels", "join_rules", "name", "topic", "avatar", "canonical_alias", "history_visibility",
        "guest_access", "encryption", "server_acl", "pinned_events",
    )
)  # fmt: skip

_PAGE = 500  # agreed events that the caller may load at once


@dataclass(frozen=True, slots=True)
class FullConflictedSet:
    """The full conflicted set, by numbers in the graph, with missing events and what is no state event.

    certain: belong to it, whatever the auth difference is. difference.doubtful: may belong to it, and what else is in
    it changes nothing; after `settle` all of them do.
    """

    certain: set[int]
    difference: AuthDifference
    _graph: AuthGraph
    _split: SplitStates
    _base: Mapping[StateKey, EventId]
    _expect: Callable[[Sequence[EventId]], None]

    def settle(self) -> None:
        """Look at as much of the agreed state as is needed to be sure of all that is in doubt: the last resort."""
        agreed = self._agreed()
        while self.difference.doubtful and (page := list(islice(agreed, _PAGE))):
            self._expect(page)
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
    expect: Callable[[Sequence[EventId]], None],
    order_depends_on: Callable[[Mapping[int, Event], Mapping[int, Event]], bool],
    *,
    is_2_1: bool,
) -> FullConflictedSet:
    """Return the full conflicted set, with some events left in doubt. graph: still empty."""
    unconflicted = split.unconflicted
    expect(list(split.conflicted))
    holders = {graph.number_of(event_id): states for event_id, states in split.conflicted.items()}
    chains = walk_chains(graph, holders)
    certain = set(holders)
    if is_2_1:
        certain |= conflicted_subgraph(graph, chains, holders)
    difference = AuthDifference(graph, chains, holders, split.count)
    difference.doubtful -= certain  # these are replayed in any case
    # Cheap proofs: agreed events that the walk has come to; those that stand where a doubtful one stood, since a
    # membership or power levels cite what they replace; and the few that cite moderators.
    difference.settle(list(graph.agreed))
    if difference.doubtful:
        doubtful = state_events(graph, find, difference.doubtful).values()
        keys = dict.fromkeys([*((event.type, event.state_key or "") for event in doubtful), *_MODERATORS_KEYS])
        agreed = [event_id for event_id in map(unconflicted.get, keys) if event_id is not None]
        expect(agreed)
        difference.settle(map(graph.number_of, agreed))
    if difference.doubtful and len(difference.doubtful) + len(certain) < len(base):
        possible = state_events(graph, find, certain | difference.doubtful)
        doubtful_events = difference.doubtful & possible.keys()
        difference.doubtful -= idle_events(
            graph, checks, possible, doubtful_events, unconflicted, order_depends_on, starts_empty=is_2_1
        )
    return FullConflictedSet(certain, difference, graph, split, base, expect)


def state_events(graph: AuthGraph, find: Callable[[EventId], Event | None], numbers: Iterable[int]) -> dict[int, Event]:
    """Return those of the events that are there, and are state events, by number."""
    found = {number: find(graph.ids[number]) for number in numbers}
    return {number: event for number, event in found.items() if event is not None and event.state_key is not None}
