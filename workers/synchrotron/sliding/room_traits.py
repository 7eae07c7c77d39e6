"""The traits of rooms by which lists are ordered and filtered: loaded on request, updated by rows.

They are the same for all users of a room.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence

import orjson

from shared.cache.sizes import optional_size
from shared.core.identifiers import RoomId
from shared.core.rows import EventRow
from shared.storage.engine.pool import Source
from shared.storage.rooms.list_traits import TRAIT_TYPES, RoomTraits, get_room_traits

_ROOM_BYTES = 220  # the traits with their place, without the texts
_ID_BYTES = 100  # a usual room id
_ROOMS_PER_QUERY = 2_000
_ATTEMPTS = 3


class RoomTraitsCache:
    """The traits of rooms by room id.

    A request needs the traits of all its user's rooms at once. So when those of further rooms exceed `budget_bytes`,
    the others are dropped, and the rooms of that request stay even if they exceed it by themselves.
    """

    def __init__(self, reads: Source, budget_bytes: int) -> None:
        self._reads = reads
        self._budget = budget_bytes
        self._traits: dict[RoomId, RoomTraits] = {}
        self.size_bytes = 0
        #: The rooms that are being read, with the rows that arrived meanwhile.
        self._loading: dict[str, list[EventRow]] = {}
        self._turn = asyncio.Lock()

    def get(self, room_id: RoomId) -> RoomTraits | None:
        """Return a room's traits, None if they are not loaded or the room is unknown."""
        return self._traits.get(room_id)

    def apply(self, rows: Sequence[EventRow]) -> None:
        for row in rows:
            if row.room_id in self._loading:
                self._loading[row.room_id].append(row)
            traits = self._traits.get(row.room_id)
            if traits is None:
                continue
            before_bytes = _size(row.room_id, traits)
            if _apply(traits, row):
                self.size_bytes += _size(row.room_id, traits) - before_bytes
            else:
                del self._traits[row.room_id]
                self.size_bytes -= before_bytes

    async def load(self, rooms: Iterable[tuple[RoomId, int]]) -> None:
        """Load the traits of these rooms, given as (room id, room_nid), unless they are loaded. Raises Unavailable."""
        if all(room_id in self._traits for room_id, _ in rooms):
            return
        async with self._turn:
            for _ in range(_ATTEMPTS):  # a row may make the traits outdated while they are read
                missing = [(room_id, nid) for room_id, nid in rooms if room_id not in self._traits]
                if not missing:
                    return
                if self.size_bytes + (_ROOM_BYTES + _ID_BYTES) * len(missing) > self._budget:
                    self._traits.clear()
                    self.size_bytes = 0
                    missing = list(rooms)
                for first in range(0, len(missing), _ROOMS_PER_QUERY):
                    await self._read(missing[first : first + _ROOMS_PER_QUERY])

    async def _read(self, missing: Collection[tuple[RoomId, int]]) -> None:
        self._loading = {room_id: [] for room_id, _ in missing}
        try:
            found = await get_room_traits(self._reads, [nid for _, nid in missing])
            for room_id, traits in found.items():
                if all(_apply(traits, row) for row in self._loading.get(room_id, ())):
                    self._keep(room_id, traits)
        finally:
            self._loading = {}

    def _keep(self, room_id: RoomId, traits: RoomTraits) -> None:
        self._traits[room_id] = traits
        self.size_bytes += _size(room_id, traits)


def _size(room_id: RoomId, traits: RoomTraits) -> int:
    return _ROOM_BYTES + optional_size(room_id, traits.name, traits.named_by, traits.type)


def _apply(traits: RoomTraits, row: EventRow) -> bool:
    """Apply a row. Return False if the traits must be read again."""
    if row.position > traits.position:
        traits.writer, traits.position = row.writer, row.position
    if row.resolved or row.redacts_nid is not None:
        return not (row.resolved or traits.name is not None)
    if row.status == 0 and row.state_key == "" and row.type in TRAIT_TYPES:
        content = orjson.loads(row.json).get("content")
        traits.set_state(row.type, row.sender, content if isinstance(content, dict) else {})
    return True
