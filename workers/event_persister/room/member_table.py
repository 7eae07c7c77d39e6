"""The members of a large room in flat arrays: some 100 bytes each instead of 450.

A table maps user ids to entries of the state. User ids stay where they were put; a user who leaves the state is marked.
Entries are made when they are asked for, and those asked for lately are kept. Threads may `read` while the loop writes:
at worst they see an entry that is being replaced, and their result is dropped since the room has changed.
"""

from array import array
from collections.abc import Iterator

from shared.core.identifiers import EventId, UserId
from workers.event_persister.room.drafts import StateEntry

#: A room with so many entries keeps its members in a table.
LARGE_ROOM = 5000
_EMPTY = 0xFFFF_FFFF
_ID_BYTES = 44  # of the event ids of room versions 3 and later: "$" and 43 characters
_ABSENT = 0  # the code of users who have left the state
_ODD = 255  # of entries that are kept whole
_MAX_RECENT = 512
_ENTRY_BYTES = 250  # of an entry that is kept whole: measured with tracemalloc


class MemberTable:
    """user id -> entry."""

    def __init__(self) -> None:
        self._slots = array("I", [_EMPTY]) * 1024  # open addressing: hash of the user id -> row; twice as many as rows
        self._users = bytearray()  # user ids one after another
        self._ends = array("I", [0])  # row -> where its user id ends; the first one is that of no row
        self._nids = array("q")
        self._codes = bytearray()  # row -> membership
        self._event_ids = bytearray()
        self._memberships: list[str | None] = [None]  # code - 1 -> membership
        self._odd: dict[int, StateEntry] = {}  # row -> entry that does not fit: versions 1 and 2 have long event ids
        self._recent: dict[str, StateEntry] = {}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    @property
    def size_bytes(self) -> int:
        """About how much memory this takes."""
        arrays = (self._slots, self._ends, self._nids)
        flat = sum(len(one) * one.itemsize for one in arrays)
        flat += len(self._users) + len(self._codes) + len(self._event_ids)
        return flat + flat // 8 + _ENTRY_BYTES * (len(self._odd) + len(self._recent))

    def get(self, user_id: str) -> StateEntry | None:
        """Return a user's entry, None if they are not in the table. Only the event loop may call this."""
        recent = self._recent.get(user_id)
        if recent is not None:
            return recent
        entry = self.read(user_id)
        if entry is not None:
            if len(self._recent) >= _MAX_RECENT:
                self._recent.clear()
            self._recent[user_id] = entry
        return entry

    def read(self, user_id: str) -> StateEntry | None:
        """Return a user's entry without keeping it. Any thread may call this."""
        row = self._row(user_id)
        return None if row is None else self._entry(row)

    def put(self, user_id: str, entry: StateEntry) -> None:
        """Add a user, or replace their entry."""
        row = self._row(user_id)
        if row is None:
            row = self._add(user_id)
        self._size += self._codes[row] == _ABSENT
        self._recent.pop(user_id, None)
        self._odd.pop(row, None)
        code = self._code(entry.membership)
        self._nids[row] = entry.event_nid
        event_id = entry.event_id.encode()
        if len(event_id) == _ID_BYTES and code != _ODD:
            self._event_ids[row * _ID_BYTES : (row + 1) * _ID_BYTES] = event_id
        else:
            self._odd[row], code = entry, _ODD
        self._codes[row] = code

    def pop(self, user_id: str) -> None:
        """Remove a user, if they are in the table."""
        row = self._row(user_id)
        if row is not None and self._codes[row] != _ABSENT:
            self._codes[row] = _ABSENT
            self._odd.pop(row, None)
            self._recent.pop(user_id, None)
            self._size -= 1

    def items(self) -> Iterator[tuple[UserId, StateEntry]]:
        for row in range(len(self._codes)):
            entry = self._entry(row)
            if entry is not None:
                yield self._user(row), entry

    def user_ids(self) -> Iterator[UserId]:
        for row in range(len(self._codes)):
            if self._codes[row] != _ABSENT:
                yield self._user(row)

    def with_membership(self, membership: str) -> Iterator[UserId]:
        """Yield the users with this membership."""
        code = self._memberships.index(membership) + 1 if membership in self._memberships else _ABSENT
        for row in range(len(self._codes)):
            found = self._codes[row]
            if (found == code and found != _ABSENT) or (found == _ODD and self._odd[row].membership == membership):
                yield self._user(row)

    def _row(self, user_id: str) -> int | None:
        slots = self._slots  # the whole array is replaced when it grows
        mask = len(slots) - 1
        wanted = user_id.encode()
        at = hash(user_id) & mask
        while (row := slots[at]) != _EMPTY:
            if self._users[self._ends[row] : self._ends[row + 1]] == wanted:
                return row
            at = (at + 1) & mask
        return None

    def _add(self, user_id: str) -> int:
        row = len(self._codes)
        if 2 * (row + 1) > len(self._slots):
            self._grow()
        self._users += user_id.encode()
        self._ends.append(len(self._users))
        self._nids.append(0)
        self._event_ids += bytes(_ID_BYTES)
        self._codes.append(_ABSENT)
        self._fill(self._slots, user_id, row)
        return row

    def _grow(self) -> None:
        slots = array("I", [_EMPTY]) * (2 * len(self._slots))
        for row in range(len(self._codes)):
            self._fill(slots, self._user(row), row)
        self._slots = slots

    def _fill(self, slots: "array[int]", user_id: str, row: int) -> None:
        mask = len(slots) - 1
        at = hash(user_id) & mask
        while slots[at] != _EMPTY:
            at = (at + 1) & mask
        slots[at] = row

    def _user(self, row: int) -> UserId:
        return UserId(self._users[self._ends[row] : self._ends[row + 1]].decode())

    def _entry(self, row: int) -> StateEntry | None:
        code = self._codes[row]
        if code == _ABSENT:
            return None
        if code == _ODD:
            return self._odd.get(row)
        event_id = EventId(self._event_ids[row * _ID_BYTES : (row + 1) * _ID_BYTES].decode())
        return StateEntry(self._nids[row], event_id, self._memberships[code - 1])

    def _code(self, membership: str | None) -> int:
        if membership in self._memberships:
            return self._memberships.index(membership) + 1
        if len(self._memberships) >= _ODD - 1:
            return _ODD
        self._memberships.append(membership)
        return len(self._memberships)
