"""State resolution v1, v2 and v2.1, written from the text of the spec (v1.19) alone, to check the engine.

Each function is one definition or one numbered step, in the words and the order of the spec, as sets and walks that can
be compared with the page. Nothing is cached or optimised.

`disagreements.md` says which reading was chosen, and why, where the text is ambiguous.

Spec: rooms/v1 ("State resolution"), rooms/v2 (Definitions, Algorithm), rooms/v12 (the same with the changes of
MSC4297).
"""

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from shared.core.errors import AuthRuleViolation
from shared.core.event_auth import auth_types_for, check_auth
from shared.core.events import Event
from shared.core.events.readers import membership_of, power_levels_of
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion, StateResolution

Key = tuple[str, str]
StateMap = Mapping[Key, EventId]
Find = Callable[[EventId], Event | None]

POWER_LEVELS: Key = ("m.room.power_levels", "")


def resolve(
    version: RoomVersion,
    states: Sequence[StateMap],
    find: Find,
    *,
    rejected: Callable[[EventId], bool],
    create: Event,
) -> dict[Key, EventId]:
    """Return the resolution of a set of states.

    find: returns None for a missing event. Such an event takes no part, except that an entry on which all states agree
    stays, missing or not.
    """
    room = _Room(version, find, rejected, create)
    if version.state_resolution is StateResolution.V1:
        return _resolve_v1(room, states)
    return _resolve_v2(room, states)


@dataclass(frozen=True)
class _Room:
    version: RoomVersion
    find: Find
    rejected: Callable[[EventId], bool]
    create: Event

    def events(self, event_ids: Iterable[str]) -> list[Event]:
        found = [self.find(EventId(event_id)) for event_id in event_ids]
        return [event for event in found if event is not None]

    def auth_events(self, event: Event) -> list[Event]:
        return self.events(event.auth_event_ids)

    def allows(self, event: Event, state: Mapping[Key, Event]) -> bool:
        """Return True if the authorisation rules on the state allow the event.

        The rule on the event's own list of `auth_events` depends on no state. It was checked on receipt, and "no events
        rejected due to failure to auth against their auth chain should appear in the process".
        """
        try:
            check_auth(self.version, event, state, self.create)
        except AuthRuleViolation:
            return False
        return True


def _key(event: Event) -> Key:
    assert event.state_key is not None, "a state holds state events only"
    return (event.type, event.state_key)


# rooms/v1, "State resolution"


def _resolve_v1(room: _Room, states: Sequence[StateMap]) -> dict[Key, EventId]:
    # "A conflict occurs between states where those states have different event_ids for the same (event_type,
    # state_key)": to be absent from one state is no conflict.
    candidates: dict[Key, set[EventId]] = {}
    for state in states:
        for key, event_id in state.items():
            candidates.setdefault(key, set()).add(event_id)
    conflicts = {key: room.events(sorted(ids)) for key, ids in candidates.items() if len(ids) > 1}

    # "Start by setting R to the union of the states to be resolved, excluding any conflicting events."
    resolved: dict[Key, EventId] = {key: min(ids) for key, ids in candidates.items() if len(ids) == 1}

    # "First we resolve conflicts between m.room.power_levels events." "Repeat the above process for conflicts between
    # m.room.join_rules events." "Repeat the above process for conflicts between m.room.member events."
    for event_type in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
        before = _events_of(room, resolved)  # R after the earlier passes
        for key, events in conflicts.items():
            if key[0] == event_type and events:
                resolved[key] = _last_allowed_in_a_row(room, events, before).event_id

    # "No other events affect the authorisation rules, so for all other conflicts, just pick the event with the highest
    # depth and lowest sha1(event_id) that passes authentication in R and add it to R."
    before = _events_of(room, resolved)
    for key, events in conflicts.items():
        if key[0] in ("m.room.power_levels", "m.room.join_rules", "m.room.member"):
            continue
        for event in sorted(events, key=lambda event: (-event.depth, _sha1(event))):
            if room.allows(event, before):
                resolved[key] = event.event_id
                break
    return resolved


def _last_allowed_in_a_row(room: _Room, events: Sequence[Event], resolved: Mapping[Key, Event]) -> Event:
    # "Sort the list by ascending depth then descending sha1(event_id)."
    by_sha1 = sorted(events, key=_sha1, reverse=True)
    first, *others = sorted(by_sha1, key=lambda event: event.depth)
    # "Add the first event in the list to R."
    state = {**resolved, _key(first): first}
    last = first
    for event in others:
        # "For each subsequent event in the list, check that the event would be allowed by the authorisation rules for
        # a room in state R. [...] If it would not be allowed, stop".
        if not room.allows(event, state):
            break
        last = state[_key(event)] = event
    return last


def _sha1(event: Event) -> bytes:
    return hashlib.sha1(event.event_id.encode()).digest()


def _events_of(room: _Room, state: StateMap) -> dict[Key, Event]:
    found = {key: room.find(event_id) for key, event_id in state.items()}
    return {key: event for key, event in found.items() if event is not None}


# rooms/v2 and rooms/v12, "Algorithm"


def _resolve_v2(room: _Room, states: Sequence[StateMap]) -> dict[Key, EventId]:
    v2_1 = room.version.state_resolution is StateResolution.V2_1
    unconflicted, conflicted = _divide(states)
    full_conflicted_set = conflicted | _auth_difference(room, states)
    if v2_1:
        full_conflicted_set |= _conflicted_state_subgraph(room, conflicted)
    full_conflicted = {event.event_id: event for event in room.events(full_conflicted_set)}

    # 1. "Select the set X of all power events that appear in the full conflicted set. For each such power event P,
    #    enlarge X by adding the events in the auth chain of P which also belong to the full conflicted set. Sort X into
    #    a list using the reverse topological power ordering."
    picked = {event_id for event_id, event in full_conflicted.items() if _is_power_event(event)}
    for event_id in list(picked):
        picked |= _auth_chain(room, full_conflicted[event_id]) & full_conflicted.keys()
    power_list = _reverse_topological_power_ordering(room, [full_conflicted[event_id] for event_id in picked])

    # 2. "Apply the iterative auth checks algorithm, starting from the unconflicted state map [v12: an empty state map],
    #    to the list of events from the previous step to get a partially resolved state."
    start = {} if v2_1 else _events_of(room, unconflicted)
    partial = _iterative_auth_checks(room, start, power_list)

    # 3. "Take all remaining events that weren't picked in step 1 and order them by the mainline ordering based on the
    #    power level in the partially resolved state obtained in step 2."
    remaining = [event for event_id, event in full_conflicted.items() if event_id not in picked]
    ordered = _mainline_ordering(room, partial.get(POWER_LEVELS), remaining)

    # 4. "Apply the iterative auth checks algorithm on the partial resolved state and the list of events from the
    #    previous step."
    result = _iterative_auth_checks(room, partial, ordered)

    # 5. "Update the result by replacing any event with the event with the same key from the unconflicted state map, if
    #    such an event exists, to get the final resolved state."
    return {key: event.event_id for key, event in result.items()} | unconflicted


# rooms/v2 and rooms/v12, "Definitions"


def _is_power_event(event: Event) -> bool:
    """Power events: levels, join rules, and kicks and bans of other users."""
    if event.type in ("m.room.power_levels", "m.room.join_rules"):
        return True
    return (
        event.type == "m.room.member" and membership_of(event) in ("leave", "ban") and event.sender != event.state_key
    )


def _divide(states: Sequence[StateMap]) -> tuple[dict[Key, EventId], set[EventId]]:
    """Unconflicted state map and conflicted state set: pairs present in every state, and all other pairs."""
    pairs = {pair for state in states for pair in state.items()}
    unconflicted = {key: value for key, value in pairs if all(state.get(key) == value for state in states)}
    return unconflicted, {value for key, value in pairs if key not in unconflicted}


def _auth_chain(room: _Room, event: Event) -> set[EventId]:
    """Auth chain: all of E's auth events, all of their auth events, and so on; E itself is not in it."""
    chain: dict[EventId, Event] = {}
    to_visit = room.auth_events(event)
    while to_visit:
        visited = to_visit.pop()
        if visited.event_id not in chain:
            chain[visited.event_id] = visited
            to_visit += room.auth_events(visited)
    return set(chain)


def _auth_difference(room: _Room, states: Sequence[StateMap]) -> set[EventId]:
    """Auth difference: the union of the states' full auth chains without their intersection."""
    chains: list[set[EventId]] = []
    for state in states:
        full_chain: set[EventId] = set()
        for event in room.events(state.values()):
            full_chain |= _auth_chain(room, event)
        chains.append(full_chain)
    return chains[0].union(*chains) - chains[0].intersection(*chains)


def _conflicted_state_subgraph(room: _Room, conflicted: set[EventId]) -> set[EventId]:
    """Conflicted state subgraph: all paths along `auth_events` between two conflicted events, ends included.

    An event is on such a path if a conflicted event is in its chain (or is it), and it is in the chain of a conflicted
    event (or is it).
    """
    below: set[EventId] = set(conflicted)
    for event in room.events(conflicted):
        below |= _auth_chain(room, event)
    on_a_path = {event.event_id for event in room.events(below) if _auth_chain(room, event) & conflicted}
    return on_a_path | conflicted


def _reverse_topological_power_ordering(room: _Room, events: Iterable[Event]) -> list[Event]:
    """Reverse topological power ordering, "by Kahn's algorithm, selecting at each step the smallest vertex"."""
    waiting = {event.event_id: event for event in events}
    chains = {event_id: _auth_chain(room, event) for event_id, event in waiting.items()}
    ordered: list[Event] = []
    while waiting:
        # Candidates: the events that have none of the waiting events in their auth chains.
        candidates = [event for event_id, event in waiting.items() if not chains[event_id] & waiting.keys()]
        smallest = min(
            candidates,
            key=lambda event: (-_sender_power_level(room, event), event.origin_server_ts, event.event_id),
        )
        ordered.append(smallest)
        del waiting[smallest.event_id]
    return ordered


def _sender_power_level(room: _Room, event: Event) -> int:
    """The sender's power level "when looking at [the event's] auth_events"."""
    return power_levels_of(room.version, room.create, _cited_power_levels(room, event)).user_level(event.sender)


def _cited_power_levels(room: _Room, event: Event) -> Event | None:
    """The `m.room.power_levels` event in the `auth_events` of an event."""
    cited = [found for found in room.auth_events(event) if (found.type, found.state_key) == POWER_LEVELS]
    return cited[0] if cited else None


def _mainline_ordering(room: _Room, power_levels: Event | None, events: Iterable[Event]) -> list[Event]:
    """Mainline ordering based on P. The mainline is empty if the partially resolved state has no power levels."""
    mainline: list[EventId] = []
    while power_levels is not None:
        mainline.append(power_levels.event_id)
        power_levels = _cited_power_levels(room, power_levels)

    def position(event: Event) -> float:
        # "Find the smallest index j >= 1 for which e_j belongs to the mainline of P."
        e_j = _cited_power_levels(room, event)
        while e_j is not None:
            if e_j.event_id in mainline:
                return mainline.index(e_j.event_id)
            e_j = _cited_power_levels(room, e_j)
        return math.inf

    # "the mainline position of x is greater", then origin_server_ts less, then event_id less.
    return sorted(events, key=lambda event: (-position(event), event.origin_server_ts, event.event_id))


def _iterative_auth_checks(room: _Room, initial: Mapping[Key, Event], events: Iterable[Event]) -> dict[Key, Event]:
    """Iterative auth checks: apply each event that the rules allow, ignore the others."""
    state = dict(initial)
    for event in events:
        # "If a (event_type, state_key) key that is required for checking the authorisation rules is not present in the
        # state, then the appropriate state event from the event's auth_events is used if the auth event is not
        # rejected."
        required = auth_types_for(
            room.version,
            type=event.type,
            sender=event.sender,
            state_key=event.state_key,
            content=event.content,
        )
        usable = {_key(cited): cited for cited in room.auth_events(event) if not room.rejected(cited.event_id)}
        seen = {key: usable[key] for key in required if key in usable} | state
        if room.allows(event, seen):
            state[_key(event)] = event
    return state
