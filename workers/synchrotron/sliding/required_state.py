"""PURE: which keys of a room's state a client wants. Spec: MSC4186, RequiredStateRequest, "Combining room configs".

One `StateWish` is one request's; a room that several lists let in has several, and gets what any of them wants.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from shared.rooms.timeline_event import MEMBER
from workers.synchrotron.rooms.cached_room import StateKey

#: (type, state key); None: any.
Element: TypeAlias = tuple[str | None, str | None]


@dataclass(frozen=True, slots=True)
class StateWish:
    """include less exclude; lazy: of members only those that the timeline needs, and those named by state key."""

    include: frozenset[Element] = frozenset()
    exclude: frozenset[Element] = frozenset()
    lazy: bool = False

    def wants(self, key: StateKey) -> bool:
        """Return whether the key is wanted for itself, whatever the timeline shows."""
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
    return (
        key in elements
        or (type_, None) in elements
        or (None, state_key) in elements
        or (None, None) in elements
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class RequiredState:
    """What a room's wishes want together. Equal wishes, in whatever order, make equal objects."""

    wishes: tuple[StateWish, ...] = ()

    def wants(self, key: StateKey) -> bool:
        return any(wish.wants(key) for wish in self.wishes)

    @property
    def lazy(self) -> bool:
        return any(wish.lazy for wish in self.wishes) and not self.all_members

    @property
    def all_members(self) -> bool:
        """Return whether perhaps every member is wanted."""
        return any(wish.all_members for wish in self.wishes)

    @property
    def has_wildcard(self) -> bool:
        """Return whether the wanted keys can't be listed."""
        return any(None in element for wish in self.wishes for element in wish.include)

    def named_keys(self) -> list[StateKey]:
        """Return the keys that are wanted by name: all, where there is no wildcard; of any type: the member's."""
        named: dict[StateKey, None] = {}
        for wish in self.wishes:
            for type_, state_key in wish.include:
                if state_key is not None and wish.wants((type_ or MEMBER, state_key)):
                    named[type_ or MEMBER, state_key] = None
        return list(named)

    def asks_more_than(self, other: "RequiredState") -> bool:
        """Return whether there may be a key that this wants and the other doesn't."""
        return not set(self.wishes) <= set(other.wishes) or (self.lazy and not other.lazy and not other.all_members)


def combine(wishes: Iterable[StateWish]) -> RequiredState:
    return RequiredState(tuple(sorted(set(wishes), key=_order)))


_Sortable: TypeAlias = list[tuple[bool, str, bool, str]]


def _order(wish: StateWish) -> tuple[_Sortable, _Sortable, bool]:
    return _sortable(wish.include), _sortable(wish.exclude), wish.lazy


def _sortable(elements: frozenset[Element]) -> _Sortable:
    return sorted((a is None, a or "", b is None, b or "") for a, b in elements)
