"""PURE: the state keys of a room that a client wants.

A list or subscription has one `StateRequest`. A room that several of them select has a `RequiredState` of all their
requests, and gets the keys that any of them wants. Spec: MSC4186, RequiredStateRequest, "Combining room configs".
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from shared.rooms.timeline_event import MEMBER
from workers.synchrotron.rooms.cached_room import StateKey

#: (type, state key); None: any.
Element: TypeAlias = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class StateRequest:
    """The `required_state` of one list or subscription: the keys that match `include` and not `exclude`."""

    include: frozenset[Element] = frozenset()
    exclude: frozenset[Element] = frozenset()
    #: True if of the members only those named by state key and those that the timeline needs are wanted.
    lazy: bool = False

    def wants(self, key: StateKey) -> bool:
        """Return True if the key is wanted, whatever the timeline shows."""
        type_, state_key = key
        include, exclude = self.include, self.exclude
        if self.lazy and type_ == MEMBER:
            found = (MEMBER, state_key) in include or (None, state_key) in include
        else:
            found = _has(include, key)
        return found and not (exclude and _has(exclude, key))

    @property
    def all_members(self) -> bool:
        return not self.lazy and ((MEMBER, None) in self.include or (None, None) in self.include)


def _has(elements: frozenset[Element], key: StateKey) -> bool:
    type_, state_key = key
    return key in elements or (type_, None) in elements or (None, state_key) in elements or (None, None) in elements


@dataclass(frozen=True, slots=True)
class RequiredState:
    """The combined state requests of a room. Use `combine`: the same requests then make equal objects."""

    parts: tuple[StateRequest, ...] = ()

    def wants(self, key: StateKey) -> bool:
        return any(part.wants(key) for part in self.parts)

    @property
    def lazy(self) -> bool:
        return any(part.lazy for part in self.parts) and not self.all_members

    @property
    def all_members(self) -> bool:
        """True if every member may be wanted."""
        return any(part.all_members for part in self.parts)

    @property
    def has_wildcard(self) -> bool:
        """True if the wanted keys cannot be listed."""
        return any(None in element for part in self.parts for element in part.include)

    def named_keys(self) -> list[StateKey]:
        """Return the keys wanted by name. Without a wildcard they are all keys. Of any type: the member event."""
        named: dict[StateKey, None] = {}
        for part in self.parts:
            for type_, state_key in part.include:
                if state_key is not None and part.wants((type_ or MEMBER, state_key)):
                    named[type_ or MEMBER, state_key] = None
        return list(named)

    def asks_more_than(self, other: "RequiredState") -> bool:
        """Return True if this may want a key that the other does not."""
        return not set(self.parts) <= set(other.parts) or (self.lazy and not other.lazy and not other.all_members)


def combine(parts: Iterable[StateRequest]) -> RequiredState:
    """Return the required state of a room that these requests apply to."""
    return RequiredState(tuple(sorted(set(parts), key=_order)))


_Sortable: TypeAlias = tuple[tuple[bool, str, bool, str], ...]


@lru_cache(maxsize=1_000)
def _order(part: StateRequest) -> tuple[_Sortable, _Sortable, bool]:
    """Return the sort key of a request. It is kept: one request is combined with many others, for many rooms."""
    return _sortable(part.include), _sortable(part.exclude), part.lazy


def _sortable(elements: frozenset[Element]) -> _Sortable:
    return tuple(sorted((a is None, a or "", b is None, b or "") for a, b in elements))
