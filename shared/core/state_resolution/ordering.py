"""Power events, and the two orders in which events are replayed.

Spec: rooms/v2, "Power events", "Reverse topological power ordering", "Mainline ordering".
"""

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
    """Return True if the state event may take rights from another user.

    These are power levels, join rules, kicks and bans. Spec: rooms/v2, "Power events".
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
    """Return the events, earliest first: each after the events in its auth chain, otherwise by power.

    events: by their numbers in the graph. Events in a circle of citations, or that cite an event in one, are left out.

    This is Kahn's algorithm. Of the events that wait for no other, the next is the one whose sender has the greatest
    power in its own auth events, then the one with the earliest `origin_server_ts`, then the one with the smallest id.
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
    """Return False if the events keep their relative order whichever of the others are ordered with them.

    others: each is in the auth chain of one of the events.

    Another event only makes the events above it wait. They keep their turn if the other event comes before all rivals
    that they have at that turn, which is so if its own entry is smaller. By induction from the first turn, the order
    stays the same. The result may be True although the order stays the same.
    """
    if walk_chains(graph, events).tangled:
        return True
    entry_of = _entries(version, create, find, graph, {**events, **others})
    ordered_before: set[int] = set()
    for number, rival in _by_power(graph, events, entry_of):
        pending = [number]
        while pending:
            for cited in graph.auth_of(pending.pop()):
                if cited not in ordered_before:
                    ordered_before.add(cited)
                    pending.append(cited)
                    if cited in others and rival is not None and rival < entry_of[cited]:
                        return True
    return False


#: The sort key: power of the sender (negative), time, id, and the number of the event.
_Entry: TypeAlias = tuple[int, int, str, int]


def _by_power(
    graph: AuthGraph, events: Mapping[int, Event], entry_of: Mapping[int, _Entry]
) -> Iterator[tuple[int, _Entry | None]]:
    """Yield the events in reverse topological power ordering, each with the next best candidate at its turn."""
    # The order follows "the DAG formed by auth events" (rooms/v2), not only the direct links between the events. In 2.0
    # a chain may lead from one event to another over an event that is in all states.
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
    """Return the events between two of the given events on a chain of `auth_events`, without the given events.

    Events in a circle, or below one, are not included.
    """
    chains = walk_chains(graph, events)
    leads_on = bytearray(len(graph))  # 1: one of the events, or an event with one in its auth chain
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
    """Return the events, earliest first, by their position on the mainline, then by time, then by id.

    power_levels: the event whose mainline counts. If it is None, all events are at infinity.
    events: by their numbers in the graph.
    """
    positions = _mainline_positions(graph, power_levels)
    infinity = len(positions)

    def position(number: int) -> int:
        # Follow the cited power-levels events until a known one. All events on the way have the same position. Setting
        # them to infinity first also ends circles.
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

    # The greatest position comes first: it is that of the oldest power levels.
    keyed = ((-position(number), event.origin_server_ts, event.event_id, number) for number, event in events.items())
    # Sorted in parts, since one sort() of 100,000 events would block all other threads of the process for 0.1 s.
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
    # One power-levels event after the other, so that only one is parsed at a time.
    for cited, numbers in by_levels.items():
        parsed = power_levels_of(version, create, None if cited is None else find(graph.ids[cited]))
        for number in numbers:
            levels[number] = parsed.user_level(events[number].sender)
    return levels
