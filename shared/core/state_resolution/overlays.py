"""States written as what they have otherwise than a base that they share.

A room's state may have 50,000 entries, and its forward branches differ in three: only those three are looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from shared.core.identifiers import EventId

#: (event type, state key)
StateKey: TypeAlias = tuple[str, str]

#: What a branch's state has otherwise than the base; None: the key is absent there.
Overlay: TypeAlias = Mapping[StateKey, EventId | None]


class StateView(Protocol):
    """A state that is asked for single keys."""

    def get(self, key: StateKey, /) -> EventId | None: ...


class OverlaidState:
    """A state: the base with changes upon it. The base is only asked, never walked."""

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
        """Return what differs from the base."""
        base = self.base
        return {key: event_id for key, event_id in self.changes.items() if event_id != base.get(key)}


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds what, of the keys that some overlay names.

    by_key: key -> event id, None where the key is absent -> bit set of the states with that (bit i: state i).
    count: how many states were compared; so `(1 << count) - 1` stands for all of them.
    """

    by_key: dict[StateKey, dict[EventId | None, int]]
    count: int


def holders_of(base: StateView, overlays: Sequence[Overlay]) -> Holders:
    """Return which states hold what. An overlay given several times, as the same object, counts once."""
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


def overlay_upon(base: Mapping[StateKey, EventId], state: Mapping[StateKey, EventId]) -> Overlay:
    """Return a written-out state as an overlay."""
    overlay: dict[StateKey, EventId | None] = {
        key: event_id for key, event_id in state.items() if base.get(key) != event_id
    }
    overlay.update((key, None) for key in base if key not in state)
    return overlay


def lay_upon(base: Mapping[StateKey, EventId], overlay: Overlay) -> dict[StateKey, EventId]:
    """Return an overlay as a written-out state."""
    state = dict(base)
    for key, event_id in overlay.items():
        if event_id is None:
            state.pop(key, None)
        else:
            state[key] = event_id
    return state
