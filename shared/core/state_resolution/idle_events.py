"""Events whose replay cannot change anything, so that nobody needs to know whether they are in the auth difference.

This is no part of the spec; it gives the same result for less work. When two branches of a big room differ in a topic,
the topics' senders' memberships, on which all states agree, may be in the auth difference or not, depending on
whether anything else in the room cites them. To find out means to load the whole state and its history. But most
often the answer makes no difference, and that can be seen from the few events at hand.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from shared.core.events.event import Event
from shared.core.state_resolution.auth_chains import AuthGraph, within_chains
from shared.core.state_resolution.auth_checks import AuthChecks
from shared.core.state_resolution.ordering import is_power_event
from shared.core.state_resolution.overlays import StateKey, StateView


def idle_events(
    graph: AuthGraph,
    checks: AuthChecks,
    events: Mapping[int, Event],
    doubtful: Collection[int],
    unconflicted: StateView,
    order_depends_on: Callable[[Mapping[int, Event], Mapping[int, Event]], bool],
    *,
    starts_empty: bool,
) -> set[int]:
    """Return those of the doubtful events that may be left out of the replay together, whichever others are in it.

    events: all that might be replayed, by their numbers in the graph; doubtful: those of which it is not known.
    order_depends_on: `power_ordering_depends_on` for this room. starts_empty: as the replay of version 2.1.

    Left out can be an event that all states agree on, where no other event has its key and the order of the power
    events does not depend on it. A replay that starts from what is agreed on holds it anyway. One that starts empty
    may lack it; so then each event that needs its key must cite it.
    """
    idle = _sole_holders(events, doubtful, unconflicted)
    if starts_empty:
        for number, event in events.items():
            needed_idle = [key for key in checks.needed_keys(event) if idle.get(key, number) != number]
            if needed_idle:
                stand_ins = checks.stand_ins(event)
                for key in needed_idle:
                    stand_in = stand_ins.get(key)
                    if stand_in is None or stand_in.event_id != unconflicted.get(key):
                        del idle[key]
    found = set(idle.values())
    certain = [number for number in events if number not in found]
    power_events = [number for number in certain if is_power_event(events[number])]
    first = within_chains(graph, power_events, events.keys())
    below = first & found
    # Which of the certain ones are ordered must be certain, too.
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
