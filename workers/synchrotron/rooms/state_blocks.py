"""A room's whole state, encoded once for all readers who get the same bytes within a few seconds.

After a synchrotron ended, or when many users open a huge room at once, each of them needs the same thousands of member
events at the same ordinal. They are read and encoded for the first reader, and the others wait for that. Events with
data of one reader only (`transaction_id`) are not in the block. `age` is as of the block's creation.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from shared.cache.byte_budget import ByteBudgetCache
from shared.core.identifiers import RoomId, UserId
from shared.rooms.shown_event import Reader, shown_event
from shared.rooms.timeline_event import TimelineEvent
from shared.rooms.viewpoint import Viewpoint
from shared.runtime.clock import Clock
from workers.synchrotron.rooms.cached_room import CachedRoom
from workers.synchrotron.rooms.room_lookups import RoomLookups

#: How long a block is used, and so how far `age` may be off.
_LIFE_S = 5.0
_EVENTS_PER_SLICE = 200  # half a millisecond of encoding between two moments at which other requests run
_BLOCK_BYTES = 500
_SENDER_BYTES = 150
#: The reader of a block: a user who sent no event.
_NOBODY = UserId("")


@dataclass(frozen=True, slots=True, eq=False)
class StateBlock:
    """An encoded state."""

    #: Events as JSON, separated by commas.
    pieces: Sequence[bytes]
    #: Events that look different to their senders. They are not in `pieces`.
    own: Sequence[TimelineEvent]
    #: The senders of all events, of the events they replaced, and of their redactions. If one of them is erased,
    #: readers differ.
    senders: frozenset[UserId]
    #: The ordinal of the last redaction of an event. Readers who left before it get it without its reason.
    redacted_at: int
    created_s: float


class StateBlocks:
    """The blocks within `budget_bytes`. A block larger than that serves only the requests that wait for it."""

    def __init__(self, lookups: RoomLookups, clock: Clock, budget_bytes: int) -> None:
        self._lookups = lookups
        self._clock = clock
        self._blocks: ByteBudgetCache[tuple[RoomId, int], StateBlock] = ByteBudgetCache(budget_bytes)
        self._creating: dict[tuple[RoomId, int], asyncio.Task[StateBlock]] = {}

    async def get(self, room: CachedRoom, ordinal: int) -> StateBlock:
        """Return the state just before an ordinal, for readers with `Viewpoint.sees_everything`."""
        key = (room.room_id, ordinal)
        block = self._blocks.get(key)
        if block is not None and self._clock.monotonic_s() - block.created_s < _LIFE_S:
            return block
        creating = self._creating.get(key)
        if creating is None:
            # A separate task: the first request may be cancelled while others still wait.
            creating = self._creating[key] = asyncio.get_running_loop().create_task(self._create(room, ordinal))
        return await asyncio.shield(creating)

    async def _create(self, room: CachedRoom, ordinal: int) -> StateBlock:
        key = (room.room_id, ordinal)
        try:
            state = await self._lookups.state_before(room, ordinal, members=True)
            events = list(state.values())
            reader = Reader(_NOBODY, None, self._clock.now_ms())
            view = Viewpoint(_NOBODY, room.visibility, (), joined_throughout_from=0)
            own = [event for event in events if event.txn_id is not None]
            shared = [event for event in events if event.txn_id is None]
            pieces = []
            for start in range(0, len(shared), _EVENTS_PER_SLICE):
                part = shared[start : start + _EVENTS_PER_SLICE]
                encoded = orjson.dumps([shown_event(event, reader, view, in_state=True) for event in part])[1:-1]
                pieces.append(b"," + encoded if start else encoded)
                await asyncio.sleep(0)
            senders = {event.sender for event in events}
            senders |= {event.previous.sender for event in events if event.previous is not None}
            redactions = [event.redacted_because for event in events if event.redacted_because is not None]
            senders |= {redaction.sender for redaction in redactions}
            redacted_at = max((redaction.ordinal for redaction in redactions), default=0)
            block = StateBlock(pieces, own, frozenset(senders), redacted_at, self._clock.monotonic_s())
            self._blocks.put(key, block, _BLOCK_BYTES + sum(map(len, pieces)) + _SENDER_BYTES * len(senders))
            return block
        finally:
            del self._creating[key]


@dataclass(frozen=True, slots=True, eq=False)
class SharedEvents:
    """A list of events in a section: the pieces of a block, and further events. See `section_parts`."""

    pieces: Sequence[bytes]
    own: Sequence[orjson.Fragment]


def section_parts(section: dict[str, Any]) -> Sequence[bytes]:
    """Return a room's section as JSON in parts. The pieces of a block are not copied."""
    for key, value in section.items():
        if isinstance(value, SharedEvents):
            rest = {name: each for name, each in section.items() if name != key}
            own = orjson.dumps(value.own)[1:-1]
            joint = b"," if own and value.pieces else b""
            return (
                b'{"%b":{"events":[' % key.encode(),
                *value.pieces,
                joint,
                own,
                b"]},",
                orjson.dumps(rest)[1:],
            )
    return (orjson.dumps(section),)
