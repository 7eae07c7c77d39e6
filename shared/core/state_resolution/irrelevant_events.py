"""Events whose replay cannot affect the result, so that it need not be known if they are in the auth difference.

This saves work and is not in the spec. If two branches of a big room differ in a topic, the memberships of the topics'
senders, on which all states agree, may or may not be in the auth difference. That depends on whether any other event of
the room cites them, and finding out means to load the whole state and its history. Mostly the answer does not matter,
and the few events in memory prove it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from shared.core.events.event import Event
from shared.core.state_resolution.auth_chains import AuthGraph, within_chains
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.ordering import is_power_event
from shared.core.state_resolution.overlays import StateKey, StateView


def irrelevant_events(
    graph: AuthGraph,
    checks: AuthChecks,
    events: Mapping[int, Event],
    doubtful: Collection[int],
    unconflicted: StateView,
    order_depends_on: Callable[[Mapping[int, Event], Mapping[int, Event]], bool],
    *,
    starts_empty: bool,
) -> set[int]:
    """Return the doubtful events that may be left out of the replay together, whichever others are replayed.

    events: all events that may be replayed, by their numbers in the graph.
    doubtful: those of them that may not be replayed.
    order_depends_on: `power_ordering_depends_on` for this room.
    starts_empty: True if the replay starts from an empty state, as in version 2.1.

    An event may be left out if all states agree on it, no other event has its key, and the order of the power events
    does not depend on it. A replay that starts from the agreed state contains it anyway. A replay that starts empty may
    lack it, so each event that needs its key must cite it.
    """
    found_by_key = _sole_holders(events, doubtful, unconflicted)
    if starts_empty:
        for number, event in events.items():
            needed = [key for key in checks.needed_keys(event) if found_by_key.get(key, number) != number]
            if needed:
                fallbacks = checks.fallbacks(event)
                for key in needed:
                    fallback = fallbacks.get(key)
                    if fallback is None or fallback.event_id != unconflicted.get(key):
                        del found_by_key[key]
    found = set(found_by_key.values())
    certain = [number for number in events if number not in found]
    power_events = [number for number in certain if is_power_event(events[number])]
    first = within_chains(graph, power_events, events.keys())
    below = first & found
    # The set of ordered events must not depend on the events left out, either.
    if below and (
        len(found) < len(doubtful)
        or order_depends_on(
            {number: events[number] for number in first - found}, {number: events[number] for number in below}
        )
    ):
        return found - below
    return found


def _sole_holders(
    events: Mapping[int, Event], doubtful: Collection[int], unconflicted: StateView
) -> dict[StateKey, int]:
    per_key = Counter((event.type, event.state_key) for event in events.values())
    found: dict[StateKey, int] = {}
    for number in doubtful:
        event = events.get(number)
        if event is not None and not is_power_event(event):
            key = (event.type, event.state_key or "")
            if unconflicted.get(key) == event.event_id and per_key[key] == 1:
                found[key] = number
    return found
