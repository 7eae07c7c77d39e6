"""PURE: which rooms an extension speaks of. Spec: MSC4508 and MSC3575, "Extensions": `lists` and `rooms`."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from shared.http.request import convert

_ALL = "*"


class _Parameters(msgspec.Struct):
    enabled: bool = False
    lists: list[str] | None = None
    rooms: list[str] | None = None


@dataclass(frozen=True, slots=True)
class Scope:
    """lists: rooms within the ranges of these; rooms: those of these that are subscribed to. None: of all."""

    lists: frozenset[str] | None = None
    rooms: frozenset[str] | None = None

    def has(self, room_id: str, lists: Collection[str], subscribed: bool) -> bool:
        if subscribed and (self.rooms is None or room_id in self.rooms):
            return True
        return bool(lists) and (self.lists is None or not self.lists.isdisjoint(lists))


def parse_scope(parameters: Mapping[str, Any]) -> Scope | None:
    """Return None for an extension that is not enabled. Raises M_BAD_JSON."""
    read = convert(parameters, _Parameters)
    return Scope(_named(read.lists), _named(read.rooms)) if read.enabled else None


def _named(names: list[str] | None) -> frozenset[str] | None:
    return None if names is None or _ALL in names else frozenset(names)
