"""A room's whole state, encoded once for all who get the same bytes of it within a few seconds.

When a synchrotron has ended, or a huge room is opened by many at once, each of them wants the same thousands of
member events at the same place: they are read and encoded for the first, and the others wait for that. What of it is
one reader's own (`transaction_id`) is not in the block; `age` is as it was when the block was made.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.cache.byte_budget import ByteBudgetCache
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.runtime.clock import Clock
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_cache import RoomCache

#: How far `age` may be behind the truth; and for how long a room's block serves whoever else asks.
_LIFE_S = 5.0
_EVENTS_AT_A_TIME = 200  # encoded before others have a turn: half a millisecond
_BLOCK_BYTES = 500
_SENDER_BYTES = 150
#: Nobody: no event is his own.
_NOBODY = ""


@dataclass(frozen=True, slots=True, eq=False)
class StateBlock:
    """pieces: events as JSON, a comma between any two; own: events that look different to who sent them.

    senders: of all of them, and of what they replaced: whoever of these was erased is not shown the same to everybody.
    """

    pieces: Sequence[bytes]
    own: Sequence[TimelineEvent]
    senders: frozenset[str]
    made_s: float


class StateBlocks:
    """budget_bytes: of the blocks kept. One alone that is larger serves only those who wait for it."""

    def __init__(self, rooms: RoomCache, clock: Clock, budget_bytes: int) -> None:
        self._rooms = rooms
        self._clock = clock
        self._blocks: ByteBudgetCache[tuple[str, int], StateBlock] = ByteBudgetCache(budget_bytes)
        self._making: dict[tuple[str, int], asyncio.Task[StateBlock]] = {}

    async def get(self, room: CachedRoom, place: int) -> StateBlock:
        """Return the state just before an ordinal, for whoever may see all of it: `Viewpoint.sees_everything`."""
        key = (room.room_id, place)
        block = self._blocks.get(key)
        if block is not None and self._clock.monotonic_s() - block.made_s < _LIFE_S:
            return block
        making = self._making.get(key)
        if making is None:
            # A task of its own: who asked first may go away, the others still wait.
            making = self._making[key] = asyncio.get_running_loop().create_task(self._make(room, place))
        return await asyncio.shield(making)

    async def _make(self, room: CachedRoom, place: int) -> StateBlock:
        key = (room.room_id, place)
        try:
            state = await self._rooms.state_before(room, place, members=True)
            events = list(state.values())
            reader = Reader(_NOBODY, None, self._clock.now_ms())
            view = Viewpoint(_NOBODY, room.visibility, (), joined_throughout_from=0)
            own = [event for event in events if event.txn_id is not None]
            same = [event for event in events if event.txn_id is None]
            pieces = []
            for start in range(0, len(same), _EVENTS_AT_A_TIME):
                part = same[start : start + _EVENTS_AT_A_TIME]
                encoded = orjson.dumps([shown_event(event, reader, view, in_state=True) for event in part])[1:-1]
                pieces.append(b"," + encoded if start else encoded)
                await asyncio.sleep(0)
            senders = {event.sender for event in events}
            senders |= {event.previous.sender for event in events if event.previous is not None}
            block = StateBlock(pieces, own, frozenset(senders), self._clock.monotonic_s())
            self._blocks.put(key, block, _BLOCK_BYTES + sum(map(len, pieces)) + _SENDER_BYTES * len(senders))
            return block
        finally:
            del self._making[key]


@dataclass(frozen=True, slots=True, eq=False)
class SharedEvents:
    """A list of events in a section: `pieces` of a block, and `own` beside them. Encoded by `section_parts`."""

    pieces: Sequence[bytes]
    own: Sequence[orjson.Fragment]


def section_parts(section: dict[str, Any]) -> Sequence[bytes]:
    """Return a room's section as JSON, in parts; those of a block are not copied."""
    for key, value in section.items():
        if isinstance(value, SharedEvents):
            rest = {name: each for name, each in section.items() if name != key}
            own = orjson.dumps(value.own)[1:-1]
            joint = b"," if own and value.pieces else b""
            return (
                b'{"%b":{"events":[' % key.encode(), *value.pieces, joint, own, b"]},",
                orjson.dumps(rest)[1:],
            )  # fmt: skip
    return (orjson.dumps(section),)
