"""States as differences from a shared base.

A room's state may have 50,000 entries while its branches differ in three. Only those three are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from shared.core.identifiers import EventId

#: (event type, state key)
StateKey: TypeAlias = tuple[str, str]

#: The entries of a branch's state that differ from the base. None: the key is absent.
Overlay: TypeAlias = Mapping[StateKey, EventId | None]


class StateView(Protocol):
    """A state that is read by key."""

    def get(self, key: StateKey, /) -> EventId | None: ...


class OverlaidState:
    """A state: a base with changes on top. The base is only read by key, never iterated."""

    __slots__ = ("base", "changes")

    def __init__(self, base: StateView, changes: dict[StateKey, EventId | None]) -> None:
        self.base = base
        self.changes = changes

    def get(self, key: StateKey, /) -> EventId | None:
        changes = self.changes
        return changes[key] if key in changes else self.base.get(key)

    def __setitem__(self, key: StateKey, event_id: EventId) -> None:
        self.changes[key] = event_id

    def overlay(self) -> dict[StateKey, EventId | None]:
        """Return the differences from the base."""
        base = self.base
        return {key: event_id for key, event_id in self.changes.items() if event_id != base.get(key)}


@dataclass(frozen=True, slots=True)
class Holders:
    """The states that have each entry, for the keys in some overlay.

    by_key: key -> event id (None if the key is absent) -> bit set of the states with it (bit i: state i).
    count: the number of distinct states. `(1 << count) - 1` is the set of all.
    """

    by_key: dict[StateKey, dict[EventId | None, int]]
    count: int


def holders_of(base: StateView, overlays: Sequence[Overlay]) -> Holders:
    """Return the states that have each entry. An overlay given several times, as the same object, counts once."""
    distinct = list({id(overlay): overlay for overlay in overlays}.values())
    by_key: dict[StateKey, dict[EventId | None, int]] = {}
    for index, overlay in enumerate(distinct):
        state = 1 << index
        for key, event_id in overlay.items():
            held = by_key.setdefault(key, {})
            held[event_id] = held.get(event_id, 0) | state
    everywhere = (1 << len(distinct)) - 1
    for key, held in by_key.items():
        named = 0
        for states in held.values():
            named |= states
        if named != everywhere:
            event_id = base.get(key)
            held[event_id] = held.get(event_id, 0) | everywhere & ~named
    return Holders(by_key, len(distinct))


def overlay_of(base: Mapping[StateKey, EventId], state: Mapping[StateKey, EventId]) -> Overlay:
    """Return a full state as an overlay on the base."""
    overlay: dict[StateKey, EventId | None] = {
        key: event_id for key, event_id in state.items() if base.get(key) != event_id
    }
    overlay.update((key, None) for key in base if key not in state)
    return overlay


def apply_overlay(base: Mapping[StateKey, EventId], overlay: Overlay) -> dict[StateKey, EventId]:
    """Return an overlay on the base as a full state."""
    state = dict(base)
    for key, event_id in overlay.items():
        if event_id is None:
            state.pop(key, None)
        else:
            state[key] = event_id
    return state
