"""PURE: rooms in the order of their last activity, the latest first. Moving one room needs no sorting."""

from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence

from shared.core.identifiers import RoomId
from workers.synchrotron.sliding.request import Range


class Ranking:
    """An ordered set of rooms."""

    def __init__(self, rooms: Iterable[tuple[int, RoomId]] = ()) -> None:
        """rooms: (position of the room's last activity, room)."""
        self._order: list[tuple[int, RoomId]] = sorted(rooms)
        self._positions = {room_id: position for position, room_id in self._order}

    def __len__(self) -> int:
        return len(self._order)

    def __contains__(self, room_id: object) -> bool:
        return room_id in self._positions

    def put(self, room_id: RoomId, position: int) -> None:
        """Add the room, or move it."""
        if self._positions.get(room_id) == position:
            return
        self.remove(room_id)
        self._positions[room_id] = position
        insort(self._order, (position, room_id))

    def remove(self, room_id: RoomId) -> None:
        position = self._positions.pop(room_id, None)
        if position is not None:
            del self._order[bisect_left(self._order, (position, room_id))]

    def rooms(self) -> list[RoomId]:
        return [room_id for _, room_id in reversed(self._order)]

    def within(self, ranges: Sequence[Range] | None) -> list[RoomId]:
        """Return the rooms within the ranges, each once; all for None. Ranges are inclusive, 0 is the latest."""
        if ranges is None:
            return self.rooms()
        size = len(self._order)
        found: list[RoomId] = []
        for first, last in _without_overlaps(ranges):
            part = self._order[max(size - last - 1, 0) : max(size - first, 0)]
            found += [room_id for _, room_id in reversed(part)]
        return found


def _without_overlaps(ranges: Sequence[Range]) -> Sequence[Range]:
    """Return ranges of the same places in the same order, each place once."""
    if len(ranges) < 2:
        return ranges
    kept: list[Range] = []
    for one in ranges:
        left = [one]
        for start, end in kept:
            left = [
                part
                for first, last in left
                for part in ((first, min(last, start - 1)), (max(first, end + 1), last))
                if part[0] <= part[1]
            ]
        kept += left
    return kept
