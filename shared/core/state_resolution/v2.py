"""State resolution 2.0 (room versions 2 to 11) and 2.1 (from 12 on).

Spec: rooms/v2 and rooms/v12, "State resolution", "Algorithm".
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution
from shared.core.state_resolution.auth_chains import AuthGraph, within_chains
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.conflicts import split_states
from shared.core.state_resolution.full_conflicted_set import find_full_conflicted_set, state_events
from shared.core.state_resolution.ordering import (
    is_power_event,
    mainline_ordering,
    power_ordering_depends_on,
    reverse_topological_power_ordering,
)
from shared.core.state_resolution.outcomes import same_outcome
from shared.core.state_resolution.overlays import OverlaidState, Overlay, StateKey


def resolve_v2(
    version: RoomVersion,
    base: Mapping[StateKey, EventId],
    overlays: Sequence[Overlay],
    find: Callable[[EventId], Event | None],
    *,
    rejected: Callable[[EventId], bool],
    prefetch: Callable[[Sequence[EventId]], None],
    create: Event,
) -> dict[StateKey, EventId | None]:
    """Return the resolution as an overlay. The parameters are those of `resolve_overlays`."""
    split = split_states(base, overlays)
    unconflicted = split.unconflicted
    if not split.conflicted:
        return unconflicted.overlay()
    graph = AuthGraph(find, unconflicted)
    checks = AuthChecks(version, create, find, lambda event_id: not rejected(event_id))
    is_2_1 = version.state_resolution is StateResolution.V2_1

    def replay(events: Mapping[int, Event]) -> dict[StateKey, EventId | None]:
        # Step 1: the power events, and the events of the full conflicted set in their auth chains, in reverse
        # topological power ordering.
        power_events = [number for number, event in events.items() if is_power_event(event)]
        first = within_chains(graph, power_events, events.keys())
        by_power = reverse_topological_power_ordering(
            version, create, find, graph, {number: events[number] for number in first}
        )

        # Step 2: replay these on the unconflicted state. In 2.1 start with an empty state, so that an event's own auth
        # events are used for keys that the replay has not decided.
        resolved = OverlaidState({}, {}) if is_2_1 else OverlaidState(base, dict(unconflicted.changes))
        checks.apply(resolved, by_power)

        # Step 3: all other events by the mainline of the power levels resolved so far.
        others = {number: event for number, event in events.items() if number not in first}
        by_mainline = mainline_ordering(graph, resolved.get(("m.room.power_levels", "")), others)

        # Step 4: replay these on the result of step 2.
        checks.apply(resolved, by_mainline)

        # Step 5: the unconflicted state takes precedence over the replay.
        return {key: event_id for key, event_id in resolved.changes.items() if unconflicted.get(key) is None}

    order_depends_on = partial(power_ordering_depends_on, version, create, find, graph)
    found = find_full_conflicted_set(graph, split, base, find, checks, prefetch, order_depends_on, is_2_1=is_2_1)
    certain = state_events(graph, find, found.certain)
    replayed = same_outcome(replay, certain, state_events(graph, find, found.difference.doubtful), len(base))
    if replayed is None:
        found.settle()
        replayed = replay(certain | state_events(graph, find, found.difference.doubtful))
    return OverlaidState(base, unconflicted.changes | replayed).overlay()
