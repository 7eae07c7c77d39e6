"""State resolution 2.0 (room versions 2 to 11) and 2.1 (from 12 on). Spec: rooms/v2 and rooms/v12, "State resolution",
"Algorithm"."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution
from shared.core.state_resolution.auth_chains import (
    AuthDifference,
    AuthGraph,
    conflicted_subgraph,
    walk_chains,
    within_chains,
)
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import SplitStates, StateKey, split_states
from shared.core.state_resolution.idle_events import idle_events
from shared.core.state_resolution.ordering import is_power_event, mainline_ordering, reverse_topological_power_ordering


def resolve_v2(
    version: RoomVersion,
    states: Sequence[Mapping[StateKey, EventId]],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool],
    create: Event,
) -> dict[StateKey, EventId]:
    """Return the resolution of the states; parameters as for `resolve`."""
    split = split_states(states)
    if not split.conflicted:
        return split.unconflicted
    graph = AuthGraph(find)
    checks = AuthChecks(version, create, find, lambda event_id: not rejected(event_id))
    is_2_1 = version.state_resolution is StateResolution.V2_1
    events = _replayed_events(graph, split, find, checks, is_2_1=is_2_1)

    # Step 1: the power events among them, with what their auth chains have in common with the full conflicted set,
    # by the reverse topological power ordering.
    power_events = [number for number, event in events.items() if is_power_event(event)]
    first = within_chains(graph, power_events, set(events))
    by_power = reverse_topological_power_ordering(
        version, create, find, graph, {number: events[number] for number in first}
    )

    # Step 2: replay these, upon what the states agree on; in 2.1 upon nothing, so that each event's own auth events
    # answer what the replay has not decided.
    resolved = {} if is_2_1 else dict(split.unconflicted)
    checks.apply(resolved, by_power)

    # Step 3: all the others by the mainline of the power levels that stand now.
    others = {number: event for number, event in events.items() if number not in first}
    by_mainline = mainline_ordering(graph, resolved.get(("m.room.power_levels", "")), others)

    # Step 4: replay those upon the result of step 2.
    checks.apply(resolved, by_mainline)

    # Step 5: what the states agreed on stands, whatever the replay made of it.
    resolved.update(split.unconflicted)
    return resolved


def _replayed_events(
    graph: AuthGraph,
    split: SplitStates,
    find: Callable[[EventId], Event | None],
    checks: AuthChecks,
    *,
    is_2_1: bool,
) -> dict[int, Event]:
    """Return the full conflicted set by numbers in the graph, without what is missing, no state event, or idle.

    Spec: rooms/v2 and rooms/v12, "Full conflicted set".
    """
    holders = {graph.number_of(event_id): states for event_id, states in split.conflicted.items()}
    chains = walk_chains(graph, holders)
    numbers = set(holders)
    if is_2_1:
        numbers |= conflicted_subgraph(graph, chains, holders)
    difference = AuthDifference(graph, chains, holders, split.count)
    difference.doubtful -= numbers  # these are replayed in any case
    # Cheap proofs first: agreed events at hand already, then the few that are no memberships and cite moderators.
    agreed = split.unconflicted
    difference.settle([graph.number_of(event_id) for event_id in agreed.values() if event_id in graph])
    difference.settle([graph.number_of(event_id) for key, event_id in agreed.items() if key[0] != "m.room.member"])
    if difference.doubtful and len(difference.doubtful) + len(numbers) < len(agreed):
        possible = _state_events(graph, find, numbers | difference.doubtful)
        difference.doubtful -= idle_events(graph, checks, possible, agreed, starts_empty=is_2_1) - numbers
    difference.settle(map(graph.number_of, agreed.values()))
    return _state_events(graph, find, numbers | difference.doubtful)


def _state_events(
    graph: AuthGraph, find: Callable[[EventId], Event | None], numbers: Iterable[int]
) -> dict[int, Event]:
    found = {number: find(graph.ids[number]) for number in numbers}
    return {number: event for number, event in found.items() if event is not None and event.state_key is not None}
