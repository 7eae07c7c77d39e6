"""State resolution 2.0 (room versions 2 to 11) and 2.1 (from 12 on). Spec: rooms/v2 and rooms/v12, "State resolution",
"Algorithm"."""

from collections.abc import Callable, Mapping, Sequence

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution
from shared.core.state_resolution.auth_chains import (
    AuthGraph,
    auth_difference,
    conflicted_subgraph,
    walk_chains,
    within_chains,
)
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import SplitStates, StateKey, split_states
from shared.core.state_resolution.ordering import mainline_ordering, reverse_topological_power_ordering


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
    events = _replayed_events(version, graph, split, find)
    checks = AuthChecks(version, create, find, lambda event_id: not rejected(event_id))

    # Step 1: the power events among them, with what their auth chains have in common with the full conflicted set,
    # by the reverse topological power ordering.
    power_events = [number for number, event in events.items() if is_power_event(event)]
    first = within_chains(graph, power_events, set(events))
    by_power = reverse_topological_power_ordering(
        version, create, find, graph, {number: events[number] for number in first}
    )

    # Step 2: replay these, upon what the states agree on; in 2.1 upon nothing, so that each event's own auth events
    # answer what the replay has not decided.
    starts_empty = version.state_resolution is StateResolution.V2_1
    resolved = {} if starts_empty else dict(split.unconflicted)
    checks.apply(resolved, by_power)

    # Step 3: all the others by the mainline of the power levels that stand now.
    others = {number: event for number, event in events.items() if number not in first}
    by_mainline = mainline_ordering(graph, resolved.get(("m.room.power_levels", "")), others)

    # Step 4: replay those upon the result of step 2.
    checks.apply(resolved, by_mainline)

    # Step 5: what the states agreed on stands, whatever the replay made of it.
    resolved.update(split.unconflicted)
    return resolved


def is_power_event(event: Event) -> bool:
    """Return whether the state event might take from someone the right to do something.

    Power levels, join rules, and what makes someone else leave: kicks and bans. Spec: rooms/v2, "Power events".
    """
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return event.state_key is not None
    return (
        event.type == "m.room.member"
        and event.state_key is not None
        and event.content.get("membership") in ("leave", "ban")
        and event.sender != event.state_key
    )


def _replayed_events(
    version: RoomVersion, graph: AuthGraph, split: SplitStates, find: Callable[[EventId], Event | None]
) -> dict[int, Event]:
    """Return the full conflicted set by numbers in the graph, without what is missing or not a state event.

    Spec: rooms/v2 and rooms/v12, "Full conflicted set".
    """
    holders = {graph.number_of(event_id): states for event_id, states in split.conflicted.items()}
    chains = walk_chains(graph, holders)
    numbers = set(holders)
    if version.state_resolution is StateResolution.V2_1:
        numbers |= conflicted_subgraph(graph, chains, holders)
    numbers |= auth_difference(graph, chains, holders, split.count, split.unconflicted.values())
    found = {number: find(graph.ids[number]) for number in numbers}
    return {number: event for number, event in found.items() if event is not None and event.state_key is not None}
