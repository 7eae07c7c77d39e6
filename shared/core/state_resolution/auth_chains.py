"""Auth chains, and the differences between those of several states. Spec: rooms/v2 and v12, definitions.

No chain is built for a single state. The events reachable from the conflicted ones are walked once, each with a bit set
of the states from which it is reached. The events that all states agree on are then walked only as far as needed. No
field of an event (`depth`, time) shortens a walk: other servers choose these freely, and a chain cut short would give a
state that no other server has.
"""

from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from shared.core.events.event import Event
from shared.core.identifiers import EventId
from shared.core.state_resolution.overlays import StateView

_NOT_LOOKED_UP: tuple[int, ...] = (-1,)


class AuthGraph:
    """Events as small numbers, with their `auth_events`. Each event is looked up when a walk first reaches it.

    Numbers index lists and bytearrays, which are several times smaller and faster than sets of event ids.

    ids: number -> event id.
    auth: number -> numbers of the auth events, without duplicates, in the event's order; empty for a missing event.
        It may be read only where a walk has been. `auth_of` looks events up first.
    is_power_levels: number -> 1 for the room's `m.room.power_levels` events that have been looked up.
    agreed: the events in the unconflicted state that have been looked up, in no order.
    """

    def __init__(self, find: Callable[[EventId], Event | None], unconflicted: StateView | None = None) -> None:
        self._find = find
        self._unconflicted: StateView = {} if unconflicted is None else unconflicted
        self._numbers: dict[str, int] = {}
        self.agreed: list[int] = []
        self.ids: list[EventId] = []
        self.auth: list[tuple[int, ...]] = []
        self.is_power_levels = bytearray()

    def __len__(self) -> int:
        return len(self.ids)

    def number_of(self, event_id: EventId) -> int:
        """Return the event's number, a new one if needed. The event is not looked up."""
        number = self._numbers.get(event_id)
        if number is None:
            number = self._numbers[event_id] = len(self.ids)
            self.ids.append(EventId(event_id))
            self.auth.append(_NOT_LOOKED_UP)
            self.is_power_levels.append(0)
        return number

    def auth_of(self, number: int) -> tuple[int, ...]:
        """Return the numbers of the event's auth events, none for a missing event."""
        known = self.auth[number]
        if known is not _NOT_LOOKED_UP:
            return known
        event = self._find(self.ids[number])
        cited: tuple[int, ...] = ()
        if event is not None:
            cited = tuple(map(self.number_of, event.auth_event_ids))
            if len(cited) > 1 and len(set(cited)) < len(cited):
                cited = tuple(dict.fromkeys(cited))
            if event.type == "m.room.power_levels" and event.state_key == "":
                self.is_power_levels[number] = 1
            state_key = event.state_key
            if state_key is not None and self._unconflicted.get((event.type, state_key)) == self.ids[number]:
                self.agreed.append(number)
        self.auth[number] = cited
        return cited

    def power_levels_of(self, number: int) -> int | None:
        """Return the `m.room.power_levels` event that the event cites, or None if there is none or it is missing."""
        for cited in self.auth_of(number):
            self.auth_of(cited)  # looks the event up, so that its type is known
            if self.is_power_levels[cited]:
                return cited
        return None


@dataclass(frozen=True, slots=True)
class Chains:
    """The auth chains of some events, including those events.

    ordered: each event comes before all events that it cites.
    tangled: events in circles of `auth_events`, and the events that they cite; they have no such order. Circles are
        possible only if event ids are not hashes (versions 1 and 2).
    """

    ordered: list[int]
    tangled: list[int]


def walk_chains(graph: AuthGraph, events: Iterable[int]) -> Chains:
    """Return the events, and everything reachable from them along `auth_events`, in topological order."""
    found = list(dict.fromkeys(events))
    seen = set(found)
    for number in found:  # grows as we go
        for cited in graph.auth_of(number):
            if cited not in seen:
                seen.add(cited)
                found.append(cited)
    auth = graph.auth
    citations = [0] * len(graph)
    for number in found:
        for cited in auth[number]:
            citations[cited] += 1
    ordered = [number for number in found if not citations[number]]
    for number in ordered:  # grows as we go
        for cited in auth[number]:
            citations[cited] -= 1
            if not citations[cited]:
                ordered.append(cited)
    return Chains(ordered, [number for number in found if citations[number]])


class AuthDifference:
    """The search for the events that are in the full auth chains of some states, but not of all.

    doubtful: the events reached from some states' conflicted events, and not known to be in the chains of all states.
        After `settle` with all unconflicted events, these are the auth difference.

    The full auth chain of a state has the auth events of its events, their auth events, and so on. An event of the
    state itself is part of it only if another one cites it. Spec: rooms/v2, "Auth chain", "Auth difference".
    """

    def __init__(self, graph: AuthGraph, chains: Chains, holders: Mapping[int, int], state_count: int) -> None:
        """chains: of all conflicted events. holders: conflicted event -> bit set of the states that contain it."""
        self._graph = graph
        all_states = (1 << state_count) - 1
        reached_from = _reaching_states(graph, chains, holders)
        self.doubtful = {
            number
            for walked in (chains.ordered, chains.tangled)
            for number in walked
            if reached_from[number] not in (0, all_states)
        }
        # Number -> 1 for events in the chains of all states. All events that they cite are too, so walks end here.
        self._settled = bytearray(states == all_states for states in reached_from)

    def settle(self, unconflicted: Iterable[int]) -> None:
        """Remove the events in the auth chains of these events, which all states have, from `doubtful`."""
        graph, settled, doubtful = self._graph, self._settled, self.doubtful
        for number in unconflicted:
            if not doubtful:
                return
            pending = [number]
            while pending:
                for cited in graph.auth_of(pending.pop()):
                    if cited >= len(settled):
                        settled.extend(bytes(len(graph) - len(settled)))
                    if not settled[cited]:
                        settled[cited] = 1
                        doubtful.discard(cited)
                        pending.append(cited)


def conflicted_subgraph(graph: AuthGraph, chains: Chains, conflicted: Mapping[int, int]) -> set[int]:
    """Return the events on any path of `auth_events` from one conflicted event to another, both ends included.

    chains: of all conflicted events, so that each event in it is cited, directly or not, by a conflicted one.
    Spec: rooms/v12, "Conflicted state subgraph".
    """
    within = bytearray(len(graph))  # 1: a conflicted event, or an event with one in its auth chain
    for number in conflicted:
        within[number] = 1
    auth = graph.auth
    grew = bool(chains.tangled)
    while grew:
        grew = False
        for number in chains.tangled:
            if not within[number] and any(within[cited] for cited in auth[number]):
                within[number] = grew = True
    for number in reversed(chains.ordered):
        if not within[number]:
            for cited in auth[number]:
                if within[cited]:
                    within[number] = 1
                    break
    return {number for walked in (chains.ordered, chains.tangled) for number in walked if within[number]}


def within_chains(graph: AuthGraph, events: Iterable[int], wanted: Container[int]) -> set[int]:
    """Return the given events, and those of the wanted ones that are in their auth chains."""
    found = list(events)
    seen = set(found)
    for number in found:  # grows as we go
        for cited in graph.auth_of(number):
            if cited not in seen:
                seen.add(cited)
                found.append(cited)
    return {number for number in found if number in wanted}


def _reaching_states(graph: AuthGraph, chains: Chains, holders: Mapping[int, int]) -> list[int]:
    """Return number -> bit set of the states whose conflicted events have the event in their auth chains."""
    reached_from = [0] * len(graph)
    auth = graph.auth
    for number in chains.ordered:
        states = reached_from[number] | holders.get(number, 0)
        for cited in auth[number]:
            reached_from[cited] |= states
    pending = list(chains.tangled)
    while pending:  # ends, since bits are never cleared
        number = pending.pop()
        states = reached_from[number] | holders.get(number, 0)
        for cited in auth[number]:
            if states & ~reached_from[cited]:
                reached_from[cited] |= states
                pending.append(cited)
    return reached_from
