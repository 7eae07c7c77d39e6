"""Who is typing where: whole values from the ephemeral stream `typing`, each with its end.

The process that wrote a value may die before it takes it back, so readers end it themselves.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.core.rows import TypingRow

_MAX_ROOMS = 20_000  # rooms with somebody typing, or lately so; more are not shown


@dataclass(slots=True)
class RoomTyping:
    """until_ms: by user; told_by: (writer, position) of each user's row; seq: number of the last change in this
    process, which an end by time makes too."""

    until_ms: dict[str, int] = field(default_factory=dict)
    told_by: dict[str, tuple[int, int]] = field(default_factory=dict)
    seq: int = 0

    def end(self, user_id: str) -> bool:
        """Return whether the user was typing."""
        self.told_by.pop(user_id, None)
        return self.until_ms.pop(user_id, None) is not None


class TypingRooms:
    """PURE but for what it remembers; times are given in."""

    def __init__(self) -> None:
        self._rooms: dict[str, RoomTyping] = {}

    def get(self, room_id: str) -> RoomTyping | None:
        return self._rooms.get(room_id)

    def apply(self, row: TypingRow, now_ms: int, seq: int) -> bool:
        """Take in a row; return whether those who are shown as typing changed."""
        room = self._rooms.get(row.room_id)
        stops = row.until_ms <= now_ms
        if room is None:
            if stops or len(self._rooms) >= _MAX_ROOMS:
                return False
            room = self._rooms[row.room_id] = RoomTyping()
        if stops:
            changed = room.end(row.user_id)
        else:
            changed = row.user_id not in room.until_ms
            room.until_ms[row.user_id] = row.until_ms
            room.told_by[row.user_id] = row.writer, row.position
        if changed:
            room.seq = seq
        return changed

    def left(self, room_id: str, user_id: str, seq: int) -> bool:
        """The user isn't in the room any more."""
        room = self._rooms.get(room_id)
        if room is None or not room.end(user_id):
            return False
        room.seq = seq
        return True

    def expire(self, now_ms: int, seq: int) -> list[str]:
        """End what is over; return the rooms that changed."""
        return self._end_where(lambda room, user_id: room.until_ms[user_id] <= now_ms, seq)

    def over(self, writer: int, position: int, seq: int) -> list[str]:
        """End what a writer told at or below a position, and not again since; return the rooms that changed."""

        def is_over(room: RoomTyping, user_id: str) -> bool:
            told_by, at = room.told_by[user_id]
            return told_by == writer and at <= position

        return self._end_where(is_over, seq)

    def _end_where(self, is_over: Callable[[RoomTyping, str], bool], seq: int) -> list[str]:
        changed = []
        for room_id, room in self._rooms.items():
            over = [user_id for user_id in room.until_ms if is_over(room, user_id)]
            for user_id in over:
                room.end(user_id)
            if over:
                room.seq = seq
                changed.append(room_id)
        return changed

    def forget(self, before_seq: int) -> None:
        """Forget rooms in which nobody types and whose last change everyone waiting has been told."""
        gone: Iterable[str] = [
            room_id for room_id, room in self._rooms.items() if not room.until_ms and room.seq < before_seq
        ]
        for room_id in list(gone):
            del self._rooms[room_id]

    def next_end_ms(self) -> int | None:
        """Return when the next value ends."""
        ends = [min(room.until_ms.values()) for room in self._rooms.values() if room.until_ms]
        return min(ends, default=None)
