"""The room's line through time, and states as differences from the line at one ordinal."""

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set

from shared.core.identifiers import EventId
from shared.core.room_check.stored_room import LineRow, StateKey


class Line:
    """The state before every ordinal, from `state_changes`, as event numbers by key."""

    def __init__(self, rows: Iterable[LineRow]) -> None:
        self.rows = sorted(rows, key=lambda row: row.ordinal)
        self._ordinals = [row.ordinal for row in self.rows]
        self._histories: dict[StateKey, tuple[list[int], list[int | None]]] = {}
        self._sizes = [0]
        for row in self.rows:
            ordinals, nids = self._histories.setdefault((row.type, row.state_key), ([], []))
            was_there = bool(nids) and nids[-1] is not None
            ordinals.append(row.ordinal)
            nids.append(row.event_nid)
            self._sizes.append(self._sizes[-1] + (row.event_nid is not None) - was_there)

    def at(self, key: StateKey, before: int) -> int | None:
        """Return the entry of a key before an ordinal."""
        history = self._histories.get(key)
        if history is None:
            return None
        index = bisect_left(history[0], before)
        return history[1][index - 1] if index else None

    def known_keys(self) -> Set[StateKey]:
        """Return all keys that were ever in the line."""
        return self._histories.keys()

    def size(self, before: int) -> int:
        """Return the number of entries before an ordinal."""
        return self._sizes[bisect_left(self._ordinals, before)]

    def changes(self, start: int, end: int) -> Sequence[LineRow]:
        """Return the changes at ordinals from start (inclusive) to end (exclusive), in order."""
        return self.rows[bisect_left(self._ordinals, start) : bisect_left(self._ordinals, end)]

    def last_change(self, key: StateKey) -> int:
        """Return the ordinal of a key's last change, 0 if there is none."""
        history = self._histories.get(key)
        return history[0][-1] if history is not None else 0


class State:
    """A state: the line before `base`, with `overlay` on top. A move of the base leaves the state the same.

    overlay: only keys that differ from the line there. None: the key is absent.
    """

    __slots__ = ("base", "overlay")

    def __init__(self, base: int, overlay: dict[StateKey, int | None]) -> None:
        self.base = base
        self.overlay = overlay

    def get(self, line: Line, key: StateKey) -> int | None:
        """Return the number of the key's event."""
        return self.overlay[key] if key in self.overlay else line.at(key, self.base)

    def move(self, line: Line, base: int) -> dict[StateKey, int | None]:
        """Move to another base and return the overlay there."""
        if base != self.base:
            start, end = sorted((self.base, base))
            keys = {(row.type, row.state_key) for row in line.changes(start, end)}
            keys.update(self.overlay)
            held = {key: self.get(line, key) for key in keys}
            self.base = base
            self.overlay = {key: nid for key, nid in held.items() if nid != line.at(key, base)}
        return self.overlay

    def changed(self, line: Line, key: StateKey, nid: int) -> "State":
        """Return the state with one key changed."""
        overlay = dict(self.overlay)
        if line.at(key, self.base) == nid:
            overlay.pop(key, None)
        else:
            overlay[key] = nid
        return State(self.base, overlay)


class LineState(Mapping[StateKey, EventId]):
    """The line before an ordinal as a mapping to event ids. It looks entries up and copies nothing.

    ids: event number -> event id. Entries of unknown events are absent.
    """

    def __init__(self, line: Line, before: int, ids: Mapping[int, EventId]) -> None:
        self._line = line
        self._before = before
        self._ids = ids

    def __getitem__(self, key: StateKey) -> EventId:
        nid = self._line.at(key, self._before)
        if nid is None or nid not in self._ids:
            raise KeyError(key)
        return self._ids[nid]

    def __iter__(self) -> Iterator[StateKey]:
        return (key for key in self._line.known_keys() if key in self)

    def __len__(self) -> int:
        return self._line.size(self._before)
