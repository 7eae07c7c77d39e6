"""PURE: who is present, as the stream `presence` tells it, those whose presence changed last at the end.

Who is offline stays among them, so that it can be told. Numbers (`seq`) count the rows that this process has applied,
as in `users/sync_user.py`.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from shared.core.presence import ACTIVE_FOR_MS, OFFLINE
from shared.core.rows import PresenceRow

_MAX_PEOPLE = 50_000  # some 1 KB each; those who changed first go
#: So long a user stays as he was told of by a process that is gone, or has lost his slot: until then another one
#: tells of him, or nobody syncs as him any more.
ORPHANED_FOR_MS = 60_000


@dataclass(slots=True)
class Seen:
    """row: as last told; seq: number of the last change; rooms: those that he is in and somebody here reads.

    orphaned_ms: since when nobody stands by it; 0: somebody does. by_time: it ended here, and nobody told it.
    """

    row: PresenceRow
    seq: int
    rooms: tuple[str, ...]
    orphaned_ms: int = 0
    by_time: bool = False


class PresenceMemory:
    def __init__(self) -> None:
        self._people: OrderedDict[str, Seen] = OrderedDict()
        self._orphans: dict[str, int] = {}

    def __bool__(self) -> bool:
        return bool(self._people)

    def get(self, user_id: str) -> Seen | None:
        return self._people.get(user_id)

    @property
    def last_seq(self) -> int:
        """The number of the last change; 0: there was none."""
        return next(reversed(self._people.values())).seq if self._people else 0

    def take_in(self, row: PresenceRow) -> bool:
        """Take in a row that shows nothing new; False when it does: it is for `change` then."""
        seen = self._people.get(row.user_id)
        if seen is None:
            # Who is offline is shown as nobody at all is: no news, unless he says something.
            return row.state == OFFLINE and row.status_msg is None
        was = seen.row
        if (was.state, was.currently_active, was.status_msg) != (row.state, row.currently_active, row.status_msg):
            return False
        seen.row, seen.orphaned_ms = row, 0
        self._orphans.pop(row.user_id, None)
        return True

    def change(self, row: PresenceRow, seq: int, rooms: Iterable[str], *, by_time: bool = False) -> None:
        self._people.pop(row.user_id, None)
        self._orphans.pop(row.user_id, None)
        self._people[row.user_id] = Seen(row, seq, tuple(rooms), by_time=by_time)
        if len(self._people) > _MAX_PEOPLE:
            oldest, _ = self._people.popitem(last=False)
            self._orphans.pop(oldest, None)

    def moved(self, user_id: str, room_id: str, membership: str, seq: int) -> None:
        """The user came into a room, where he is news, or went."""
        seen = self._people.get(user_id)
        if seen is None or (membership == "join") == (room_id in seen.rooms):
            return
        if membership == "join":
            seen.rooms, seen.seq = (*seen.rooms, room_id), seq
            self._people.move_to_end(user_id)
        else:
            seen.rooms = tuple(one for one in seen.rooms if one != room_id)

    def over(self, writer: int, position: int, now_ms: int) -> None:
        """A writer does not stand any more by what it told at or below a position."""
        for user_id, seen in self._people.items():
            row = seen.row
            if row.writer == writer and row.position <= position and row.state != OFFLINE and not seen.by_time:
                seen.orphaned_ms = now_ms
                self._orphans[user_id] = now_ms

    def orphans(self, now_ms: int) -> list[PresenceRow]:
        """Return those by whom nobody stood for too long, as they are to be shown now: offline."""
        gone = [user_id for user_id, since_ms in self._orphans.items() if now_ms - since_ms >= ORPHANED_FOR_MS]
        rows = []
        for user_id in gone:
            del self._orphans[user_id]
            was = self._people[user_id].row
            rows.append(
                PresenceRow(
                    position=was.position,
                    writer=was.writer,
                    user_id=user_id,
                    state=OFFLINE,
                    last_active_ms=was.last_active_ms,
                    status_msg=was.status_msg,
                )
            )
        return rows

    def changed_since(self, seq: int) -> Iterator[Seen]:
        """Yield those who changed after a number, the last one first."""
        for seen in reversed(self._people.values()):
            if seen.seq <= seq:
                return
            yield seen


def presence_event(row: PresenceRow, now_ms: int) -> dict[str, object]:
    """Return the m.presence event. Of who is active right now only that is told, so he was within the last minute."""
    content: dict[str, object] = {"presence": row.state}
    if row.last_active_ms:
        ago_ms = max(0, now_ms - row.last_active_ms)
        content["last_active_ago"] = min(ago_ms, ACTIVE_FOR_MS) if row.currently_active else ago_ms
    if row.state != OFFLINE:
        content["currently_active"] = row.currently_active
    if row.status_msg is not None:
        content["status_msg"] = row.status_msg
    return {"type": "m.presence", "sender": row.user_id, "content": content}
