"""The users who ignore another one, found by the ignored user. Spec: client-server API, "Ignoring Users".

A process has one index for all its rooms, so a long list costs its memory and its time once, and not in each room.
"""

from collections.abc import Collection, Set
from typing import Final

from shared.core.identifiers import UserId

_NOBODY: Final[frozenset[UserId]] = frozenset()


class IgnoredUsers:
    """An index from ignored users to the users who ignore them."""

    def __init__(self) -> None:
        # Most ignored users have one user who ignores them here. A set would take three times the memory.
        self._ignorers: dict[UserId, UserId | set[UserId]] = {}

    def __len__(self) -> int:
        return len(self._ignorers)

    def replace(self, user_id: UserId, former: Collection[UserId], now: Collection[UserId]) -> None:
        """Replace a user's list by another one."""
        if former and now:
            former, now = set(former) - set(now), set(now) - set(former)
        for ignored in former:
            self._remove(user_id, ignored)
        for ignored in now:
            self._add(user_id, ignored)

    def ignorers_of(self, sender: UserId) -> Set[UserId]:
        """Return the users who ignore this one."""
        present = self._ignorers.get(sender)
        if present is None:
            return _NOBODY
        return present if isinstance(present, set) else {present}

    def _add(self, user_id: UserId, ignored: UserId) -> None:
        present = self._ignorers.get(ignored)
        if present is None:
            self._ignorers[ignored] = user_id
        elif isinstance(present, set):
            present.add(user_id)
        elif present != user_id:
            self._ignorers[ignored] = {present, user_id}

    def _remove(self, user_id: UserId, ignored: UserId) -> None:
        present = self._ignorers.get(ignored)
        if isinstance(present, set):
            present.discard(user_id)
            if not present:
                del self._ignorers[ignored]
        elif present == user_id:
            del self._ignorers[ignored]
