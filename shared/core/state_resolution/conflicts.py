"""The unconflicted state map and the conflicted state set. Spec: rooms/v2, "State resolution", definitions."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import EventId
from shared.core.state_resolution.overlays import OverlaidState, Overlay, StateKey, StateView, holders_of


@dataclass(frozen=True, slots=True)
class SplitStates:
    """States, split into agreement and conflict.

    unconflicted: the entries that are the same in all states.
    conflicted: every other event of any state -> bit set of the states that contain it (bit i: state i).
    count: the number of distinct states. `(1 << count) - 1` is the set of all.
    """

    unconflicted: OverlaidState
    conflicted: dict[EventId, int]
    count: int


def split_states(base: StateView, overlays: Sequence[Overlay]) -> SplitStates:
    """Return the unconflicted state map and the conflicted state set.

    A key that some state lacks is in conflict, in contrast to version 1.
    """
    holders = holders_of(base, overlays)
    agreed: dict[StateKey, EventId | None] = {}
    conflicted: dict[EventId, int] = {}
    for key, held in holders.by_key.items():
        if len(held) == 1:
            agreed[key] = next(iter(held))
            continue
        agreed[key] = None
        for event_id, states in held.items():
            if event_id is not None:
                conflicted[event_id] = conflicted.get(event_id, 0) | states
    return SplitStates(OverlaidState(base, agreed), conflicted, holders.count)
