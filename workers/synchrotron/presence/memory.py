"""PURE: the presence of users as of the stream `presence`, in the order of their last changes.

Offline users are kept, so that responses can say that they went offline. A `seq` counts the rows that this process has
applied, as in `users/sync_user.py`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.cache.sizes import optional_size, text_size
from shared.core.identifiers import RoomId, UserId
from shared.core.presence import ACTIVE_FOR_MS, OFFLINE
from shared.core.rows import PresenceRow

#: Beyond that the users with the oldest changes are dropped. Names, pictures and status messages may take 8 KB a user.
_MAX_BYTES = 48 << 20
_ROW_BYTES = 330
_KNOWN_BYTES = 320
_ROOM_BYTES = 8  # room ids are interned: one object for all users
#: How long a user's presence outlives the process that wrote it, or that process's ownership of the user's slot.
#: By then the new owner has written it again, or the user no longer syncs.
WITHDRAWN_FOR_MS = 60_000


@dataclass(slots=True)
class KnownPresence:
    """The presence of one user."""

    row: PresenceRow
    #: The seq of the last change.
    seq: int
    #: The joined rooms that have readers here.
    rooms: tuple[RoomId, ...]
    #: True if the presence expired here, without a row that says so.
    expired: bool = False


class PresenceMemory:
    """The presence of all users known here."""

    def __init__(self) -> None:
        self._users: OrderedDict[UserId, KnownPresence] = OrderedDict()
        self.size_bytes = 0
        #: The users whose row was withdrawn, and when.
        self._withdrawn: dict[UserId, int] = {}

    def __bool__(self) -> bool:
        return bool(self._users)

    def get(self, user_id: UserId) -> KnownPresence | None:
        return self._users.get(user_id)

    @property
    def last_seq(self) -> int:
        """The seq of the last change, 0 without one."""
        return next(reversed(self._users.values())).seq if self._users else 0

    def refresh(self, row: PresenceRow) -> bool:
        """Apply a row that clients would see no difference by. Return False for other rows, which go to `change`."""
        known = self._users.get(row.user_id)
        if known is None:
            # Offline users look like unknown users, unless they have something to show.
            return row.state == OFFLINE and (row.status_msg, row.displayname, row.avatar_url) == (None, None, None)
        if _shown(known.row) != _shown(row):
            return False
        self.size_bytes += row_size(row) - row_size(known.row)
        known.row = row
        self._withdrawn.pop(row.user_id, None)
        return True

    def change(self, row: PresenceRow, seq: int, rooms: Iterable[RoomId], *, expired: bool = False) -> None:
        """Apply a row that changes what clients see."""
        if (former := self._users.pop(row.user_id, None)) is not None:
            self.size_bytes -= _size(former)
        self._withdrawn.pop(row.user_id, None)
        known = self._users[row.user_id] = KnownPresence(row, seq, tuple(rooms), expired)
        self.size_bytes += _size(known)
        while self.size_bytes > _MAX_BYTES:
            oldest, gone = self._users.popitem(last=False)
            self._withdrawn.pop(oldest, None)
            self.size_bytes -= _size(gone)

    def move(self, user_id: UserId, room_id: RoomId, membership: str, seq: int) -> None:
        """Apply a join, after which the room's members need the user's presence, or a leave."""
        known = self._users.get(user_id)
        if known is None or (membership == "join") == (room_id in known.rooms):
            return
        self.size_bytes += _ROOM_BYTES if membership == "join" else -_ROOM_BYTES
        if membership == "join":
            known.rooms, known.seq = (*known.rooms, room_id), seq
            self._users.move_to_end(user_id)
        else:
            known.rooms = tuple(one for one in known.rooms if one != room_id)

    def withdraw(self, writer: int, position: int, now_ms: int) -> None:
        """Note that a writer no longer vouches for its rows at or below a position."""
        for user_id, known in self._users.items():
            row = known.row
            if row.writer == writer and row.position <= position and row.state != OFFLINE and not known.expired:
                self._withdrawn[user_id] = now_ms

    def pop_expired(self, now_ms: int) -> list[PresenceRow]:
        """Return offline rows for the users whose rows were withdrawn for too long."""
        expired = [user_id for user_id, since_ms in self._withdrawn.items() if now_ms - since_ms >= WITHDRAWN_FOR_MS]
        rows = []
        for user_id in expired:
            del self._withdrawn[user_id]
            old = self._users[user_id].row
            rows.append(
                PresenceRow(
                    position=old.position,
                    writer=old.writer,
                    user_id=user_id,
                    state=OFFLINE,
                    last_active_ms=old.last_active_ms,
                    status_msg=old.status_msg,
                    displayname=old.displayname,
                    avatar_url=old.avatar_url,
                )
            )
        return rows

    def changed_since(self, seq: int) -> Iterator[KnownPresence]:
        """Yield the users with changes after `seq`, the latest change first."""
        for known in reversed(self._users.values()):
            if known.seq <= seq:
                return
            yield known


def row_size(row: PresenceRow) -> int:
    """Return the memory that a row takes."""
    return _ROW_BYTES + text_size(row.user_id) + optional_size(row.status_msg, row.displayname, row.avatar_url)


def _size(known: KnownPresence) -> int:
    return _KNOWN_BYTES + _ROOM_BYTES * len(known.rooms) + row_size(known.row)


def _shown(row: PresenceRow) -> tuple[object, ...]:
    """Return what clients see of a row, apart from the time of the last activity."""
    return row.state, row.currently_active, row.status_msg, row.displayname, row.avatar_url


def presence_event(row: PresenceRow, now_ms: int) -> dict[str, object]:
    """Return the m.presence event. A user who is currently active was active within the last minute."""
    content: dict[str, object] = {"presence": row.state}
    if row.last_active_ms:
        ago_ms = max(0, now_ms - row.last_active_ms)
        content["last_active_ago"] = min(ago_ms, ACTIVE_FOR_MS) if row.currently_active else ago_ms
    if row.state != OFFLINE:
        content["currently_active"] = row.currently_active
    if row.status_msg is not None:
        content["status_msg"] = row.status_msg
    if row.displayname is not None:
        content["displayname"] = row.displayname
    if row.avatar_url is not None:
        content["avatar_url"] = row.avatar_url
    return {"type": "m.presence", "sender": row.user_id, "content": content}
