"""Who is typing where: whole values from the ephemeral stream `typing`, each with its end.

The process that wrote a value may die before it takes it back, so readers end it themselves.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from replication.rows import TypingRow

_MAX_ROOMS = 20_000  # rooms with somebody typing, or lately so; more are not shown


@dataclass(slots=True)
class RoomTyping:
    """until_ms: by user; writer, position: of the last row; seq: number of the last change in this process, which
    an end by time makes too."""

    until_ms: dict[str, int] = field(default_factory=dict)
    writer: int = 0
    position: int = 0
    seq: int = 0


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
        room.writer, room.position = row.writer, row.position
        if stops:
            changed = room.until_ms.pop(row.user_id, None) is not None
        else:
            changed = row.user_id not in room.until_ms
            room.until_ms[row.user_id] = row.until_ms
        if changed:
            room.seq = seq
        return changed

    def left(self, room_id: str, user_id: str, seq: int) -> bool:
        """The user isn't in the room any more."""
        room = self._rooms.get(room_id)
        if room is None or room.until_ms.pop(user_id, None) is None:
            return False
        room.seq = seq
        return True

    def expire(self, now_ms: int, seq: int) -> list[str]:
        """End what is over; return the rooms that changed."""
        changed = []
        for room_id, room in self._rooms.items():
            over = [user_id for user_id, until_ms in room.until_ms.items() if until_ms <= now_ms]
            for user_id in over:
                del room.until_ms[user_id]
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
