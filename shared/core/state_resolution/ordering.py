"""Power events, and the two orders in which events are replayed. Spec: rooms/v2, "Power events",
"Reverse topological power ordering", "Mainline ordering"."""

import heapq
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import TypeAlias

from shared.core.events.event import Event
from shared.core.events.readers import power_levels_of
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.core.state_resolution.auth_chains import AuthGraph, walk_chains

_SORTED_AT_ONCE = 5000  # some 4 ms


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


def reverse_topological_power_ordering(
    version: RoomVersion,
    create: Event,
    find: Callable[[EventId], Event | None],
    graph: AuthGraph,
    events: Mapping[int, Event],
) -> list[Event]:
    """Return the events, earliest first: each after those in its auth chain, by power where that leaves a choice.

    events: by their numbers in the graph. Those that cite each other in a circle, or an event in such a circle, are
    left out.

    Kahn's algorithm: of the events that wait for nothing, the next one is that whose sender has the greatest power
    in its own auth events, then that of the earliest `origin_server_ts`, then that of the smallest id.
    """
    entry_of = _entries(version, create, find, graph, events)
    return [events[number] for number, _ in _by_power(graph, events, entry_of)]


def power_ordering_depends_on(
    version: RoomVersion,
    create: Event,
    find: Callable[[EventId], Event | None],
    graph: AuthGraph,
    events: Mapping[int, Event],
    others: Mapping[int, Event],
) -> bool:
    """Return False if the events keep their order among themselves whichever of the others are ordered with them.

    others: each of them in the auth chain of one of the events.

    Another event only makes those above it wait. They keep their turn if it comes before all rivals that they have
    when that turn has come, and so it does where its own entry is the smaller one; then by induction from the first
    turn on the order stays. May return True where the order stays nevertheless.
    """
    if walk_chains(graph, events).tangled:
        return True
    entry_of = _entries(version, create, find, graph, {**events, **others})
    had_their_turn: set[int] = set()
    for number, rival in _by_power(graph, events, entry_of):
        pending = [number]
        while pending:
            for cited in graph.auth_of(pending.pop()):
                if cited not in had_their_turn:
                    had_their_turn.add(cited)
                    pending.append(cited)
                    if cited in others and rival is not None and rival < entry_of[cited]:
                        return True
    return False


#: What is compared: power of the sender (negative), time, id; then the number of the event.
_Entry: TypeAlias = tuple[int, int, str, int]


def _by_power(
    graph: AuthGraph, events: Mapping[int, Event], entry_of: Mapping[int, _Entry]
) -> Iterator[tuple[int, _Entry | None]]:
    """Yield the events in reverse topological power ordering, each with the best of those that could have come then
    as well."""
    # The order follows "the DAG formed by auth events" (rooms/v2), not only the links straight from one of the events
    # to another: in 2.0 a chain may lead from one to another over an event that all states have seen.
    waits_for = dict.fromkeys([*events, *_events_between(graph, events)], 0)
    cited_by: dict[int, list[int]] = {}
    for number in waits_for:
        for cited in graph.auth_of(number):
            if cited in waits_for:
                waits_for[number] += 1
                cited_by.setdefault(cited, []).append(number)
    free = [number for number, count in waits_for.items() if not count]
    candidates: list[_Entry] = []
    while free or candidates:
        if free:
            number = free.pop()
            if number in events:
                heapq.heappush(candidates, entry_of[number])
                continue
        else:
            number = heapq.heappop(candidates)[3]
            yield number, candidates[0] if candidates else None
        for citing in cited_by.get(number, ()):
            waits_for[citing] -= 1
            if not waits_for[citing]:
                free.append(citing)


def _entries(
    version: RoomVersion,
    create: Event,
    find: Callable[[EventId], Event | None],
    graph: AuthGraph,
    events: Mapping[int, Event],
) -> dict[int, _Entry]:
    levels = _sender_levels(version, create, find, graph, events)
    return {
        number: (-levels[number], event.origin_server_ts, event.event_id, number) for number, event in events.items()
    }


def _events_between(graph: AuthGraph, events: Mapping[int, Event]) -> list[int]:
    """Return what lies on a chain of `auth_events` from one of the events to another, those themselves left out.

    What is in a circle, or below one, leads nowhere.
    """
    chains = walk_chains(graph, events)
    leads_on = bytearray(len(graph))  # 1: is one of the events, or has one in its auth chain
    for number in events:
        leads_on[number] = 1
    between: list[int] = []
    auth_of = graph.auth_of
    for number in reversed(chains.ordered):
        if not leads_on[number]:
            for cited in auth_of(number):
                if leads_on[cited]:
                    leads_on[number] = 1
                    between.append(number)
                    break
    return between


def mainline_ordering(graph: AuthGraph, power_levels: EventId | None, events: Mapping[int, Event]) -> list[Event]:
    """Return the events, earliest first, by how far down the mainline they hang, then by time, then by id.

    power_levels: the event whose mainline counts; None in a state without one: all events hang at infinity then.
    events: by their numbers in the graph.
    """
    positions = _mainline_positions(graph, power_levels)
    infinity = len(positions)

    def position(number: int) -> int:
        # From one power-levels event to the one that it cites, until one is known. All on the way hang at the same
        # place, and get it as soon as it is known; infinity until then also ends circles.
        on_the_way: list[int] = []
        step = graph.power_levels_of(number)
        while step is not None and step not in positions:
            positions[step] = infinity
            on_the_way.append(step)
            step = graph.power_levels_of(step)
        found = infinity if step is None else positions[step]
        for passed in on_the_way:
            positions[passed] = found
        return found

    # Greatest position first: it stands for the oldest power levels.
    keyed = ((-position(number), event.origin_server_ts, event.event_id, number) for number, event in events.items())
    # Sorted in parts: one call of sort() for 100,000 of them would hold up all other threads of the process for 0.1 s.
    parts: list[list[tuple[int, int, EventId, int]]] = []
    while part := list(islice(keyed, _SORTED_AT_ONCE)):
        part.sort()
        parts.append(part)
    ordered = parts[0] if len(parts) == 1 else heapq.merge(*parts)
    return [events[number] for _, _, _, number in ordered]


def _mainline_positions(graph: AuthGraph, power_levels: EventId | None) -> dict[int, int]:
    """Return event number -> index in the mainline: 0 for the event itself, 1 for the power levels that it cites."""
    positions: dict[int, int] = {}
    step = None if power_levels is None else graph.number_of(power_levels)
    while step is not None and step not in positions:
        positions[step] = len(positions)
        step = graph.power_levels_of(step)
    return positions


def _sender_levels(
    version: RoomVersion,
    create: Event,
    find: Callable[[EventId], Event | None],
    graph: AuthGraph,
    events: Mapping[int, Event],
) -> dict[int, int]:
    """Return event number -> power level of its sender, by the power levels among its own auth events."""
    by_levels: dict[int | None, list[int]] = {}
    for number in events:
        by_levels.setdefault(graph.power_levels_of(number), []).append(number)
    levels: dict[int, int] = {}
    # One power-levels event after the other, so that only one is held parsed at a time.
    for cited, numbers in by_levels.items():
        parsed = power_levels_of(version, create, None if cited is None else find(graph.ids[cited]))
        for number in numbers:
            levels[number] = parsed.user_level(events[number].sender)
    return levels
