"""What the states agree on and what not. Spec: rooms/v2, "State resolution", definitions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shared.core.identifiers import EventId

#: (event type, state key)
StateKey = tuple[str, str]


@dataclass(frozen=True, slots=True)
class SplitStates:
    """States taken apart.

    unconflicted: entries that every state has, with the same event.
    conflicted: every other event of any state -> bit set of the states that hold it (bit i: state i).
    count: how many distinct states there are; so `(1 << count) - 1` stands for all of them.
    """

    unconflicted: dict[StateKey, EventId]
    conflicted: dict[EventId, int]
    count: int


def split_states(states: Sequence[Mapping[StateKey, EventId]]) -> SplitStates:
    """Return the unconflicted state map and the conflicted state set.

    A key that one state lacks is in conflict: that is how versions 2 to 12 differ from version 1.
    """
    distinct = _without_doubles(states)
    if not distinct:
        return SplitStates({}, {}, 0)
    agreed = dict(distinct[0])
    for state in distinct[1:]:
        for key in [key for key, event_id in agreed.items() if state.get(key) != event_id]:
            del agreed[key]
    conflicted: dict[EventId, int] = {}
    for index, state in enumerate(distinct):
        if len(state) == len(agreed):
            continue  # holds what all agree on, and nothing else
        for key, event_id in state.items():
            if key not in agreed:
                conflicted[event_id] = conflicted.get(event_id, 0) | 1 << index
    return SplitStates(agreed, conflicted, len(distinct))


def _without_doubles(states: Sequence[Mapping[StateKey, EventId]]) -> list[Mapping[StateKey, EventId]]:
    """Most branches of a fork with many carry the same state, often the same object."""
    by_object = {id(state): state for state in states}.values()
    by_size: dict[int, list[Mapping[StateKey, EventId]]] = {}
    for state in by_object:
        alike = by_size.setdefault(len(state), [])
        if state not in alike:
            alike.append(state)
    return [state for alike in by_size.values() for state in alike]
