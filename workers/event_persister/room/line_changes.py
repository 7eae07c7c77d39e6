"""The latest changes of a room's current state. Undoing them gives the state at a recent event."""

from collections import deque
from collections.abc import Callable

from workers.event_persister.room.drafts import EntryChange, StateEntry, StateKey

_MAX_CHANGES = 1000


class LineChanges:
    """All changes from the ordinal `first` on, with those of events that are not stored yet."""

    def __init__(self, first: int) -> None:
        self.first = first
        self._changes: deque[tuple[int, EntryChange]] = deque()

    def __len__(self) -> int:
        return len(self._changes)

    def note(self, ordinal: int, change: EntryChange) -> None:
        """Add a change that the latest event makes."""
        self._changes.append((ordinal, change))
        while len(self._changes) > _MAX_CHANGES:
            self.first = self._changes.popleft()[0] + 1

    def forget_after(self, ordinal: int) -> None:
        """Drop the changes of the events after this one."""
        while self._changes and self._changes[-1][0] > ordinal:
            self._changes.pop()
        self.first = min(self.first, ordinal + 1)

    def before(
        self, ordinal: int, current: Callable[[StateKey], StateEntry | None]
    ) -> dict[StateKey, StateEntry | None]:
        """Return the state before an ordinal, at least `first`, as its differences from the current one."""
        overlay: dict[StateKey, StateEntry | None] = {}
        for at, change in reversed(self._changes):
            if at < ordinal:
                break
            overlay[change.key] = change.before
        return {key: entry for key, entry in overlay.items() if entry != current(key)}
