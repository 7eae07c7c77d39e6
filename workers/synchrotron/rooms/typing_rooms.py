"""The typing users of each room, from the ephemeral stream `typing`.

Each row has an expiry time, and readers expire rows themselves: the process that wrote a row may die before it
withdraws it.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from shared.cache.sizes import text_size
from shared.core.identifiers import RoomId, UserId
from shared.core.rows import TypingRow

_MAX_BYTES = 16 << 20  # beyond that further users are not shown as typing
_ROOM_BYTES = 440  # a room with its dictionaries, without the room id
_USER_BYTES = 200


@dataclass(slots=True)
class RoomTyping:
    """The typing users of one room."""

    #: Expiry times by user.
    until_ms: dict[UserId, int] = field(default_factory=dict)
    #: (writer, position) of the row by user.
    rows: dict[UserId, tuple[int, int]] = field(default_factory=dict)
    #: The seq of the last change in this process. Expiry is a change too.
    seq: int = 0

    def remove(self, user_id: UserId) -> bool:
        """Remove a user. Return True if they were typing."""
        self.rows.pop(user_id, None)
        return self.until_ms.pop(user_id, None) is not None


class TypingRooms:
    """The typing users by room. PURE: times are arguments."""

    def __init__(self) -> None:
        self._rooms: dict[RoomId, RoomTyping] = {}
        self.size_bytes = 0

    def get(self, room_id: RoomId) -> RoomTyping | None:
        return self._rooms.get(room_id)

    def apply(self, row: TypingRow, now_ms: int, seq: int) -> bool:
        """Apply a row. Return True if the set of typing users changed."""
        room = self._rooms.get(row.room_id)
        if row.until_ms <= now_ms:
            return self.left(row.room_id, row.user_id, seq)
        changed = room is None or row.user_id not in room.until_ms
        if changed and self.size_bytes >= _MAX_BYTES:
            return False
        if room is None:
            room = self._rooms[row.room_id] = RoomTyping()
            self.size_bytes += _room_size(row.room_id)
        if changed:
            self.size_bytes += _user_size(row.user_id)
        room.until_ms[row.user_id] = row.until_ms
        room.rows[row.user_id] = row.writer, row.position
        if changed:
            room.seq = seq
        return changed

    def left(self, room_id: RoomId, user_id: UserId, seq: int) -> bool:
        """Remove a user who left the room. Return True if they were typing."""
        room = self._rooms.get(room_id)
        if room is None or not room.remove(user_id):
            return False
        self.size_bytes -= _user_size(user_id)
        room.seq = seq
        return True

    def expire(self, now_ms: int, seq: int) -> list[RoomId]:
        """Remove the users whose time is over. Return the rooms that changed."""
        return self._remove_where(lambda room, user_id: room.until_ms[user_id] <= now_ms, seq)

    def withdraw(self, writer: int, position: int, seq: int) -> list[RoomId]:
        """Remove the users whose latest row is this writer's, at or below a position. Return the rooms that changed."""

        def is_withdrawn(room: RoomTyping, user_id: UserId) -> bool:
            row_writer, row_position = room.rows[user_id]
            return row_writer == writer and row_position <= position

        return self._remove_where(is_withdrawn, seq)

    def _remove_where(self, is_removed: Callable[[RoomTyping, UserId], bool], seq: int) -> list[RoomId]:
        changed = []
        for room_id, room in self._rooms.items():
            removed = [user_id for user_id in room.until_ms if is_removed(room, user_id)]
            for user_id in removed:
                room.remove(user_id)
                self.size_bytes -= _user_size(user_id)
            if removed:
                room.seq = seq
                changed.append(room_id)
        return changed

    def forget(self, before_seq: int) -> None:
        """Forget rooms without typing users whose last change is before `before_seq`."""
        gone: Iterable[RoomId] = [
            room_id for room_id, room in self._rooms.items() if not room.until_ms and room.seq < before_seq
        ]
        for room_id in list(gone):
            del self._rooms[room_id]
            self.size_bytes -= _room_size(room_id)

    def next_end_ms(self) -> int | None:
        """Return the next expiry time; None if there are no typing users."""
        ends = [min(room.until_ms.values()) for room in self._rooms.values() if room.until_ms]
        return min(ends, default=None)


def _room_size(room_id: RoomId) -> int:
    return _ROOM_BYTES + text_size(room_id)


def _user_size(user_id: UserId) -> int:
    return _USER_BYTES + text_size(user_id)
