"""Whole states that other servers name, before events whose predecessors are missing here.

A state is stored once, as a snapshot with a number, and read without the events' JSON. All events above the same gap
name its number. A snapshot that no event has named yet may be reclaimed. The caller then gives the state again.
"""

import asyncio
import hashlib
import itertools
from collections.abc import Mapping, Sequence

from replication.calls.received_events import GivenStateAnswer
from shared.core.errors import Unavailable
from shared.core.identifiers import EventId
from shared.core.state_snapshots import Snapshot
from shared.storage.engine.fenced import FencedWrite
from shared.storage.engine.number_blocks import NumberBlock
from shared.storage.engine.pool import Database
from shared.storage.events.given_states import store_given_state
from shared.storage.events.graph import get_snapshot_walk
from workers.event_persister.graph.state_entries import StateEntries
from workers.event_persister.room.drafts import RoomLost, StateEntry, StateKey
from workers.event_persister.room.live_room import LiveRoom

_AT_ONCE = 5000  # entries that are compared before other tasks get a turn: some 3 ms
_MAX_NAMED = 100  # missing events that an answer names


class GivenStates:
    """numbers: of the sequence `event_nids`, since a snapshot is numbered like an event."""

    def __init__(self, database: Database, write: FencedWrite, numbers: NumberBlock) -> None:
        self._database = database
        self._write = write
        self._numbers = numbers

    async def store(self, room: LiveRoom, event_ids: Sequence[EventId]) -> GivenStateAnswer:
        """Store a state and return its number. Raises Unavailable, RoomLost."""
        digest = hashlib.blake2b("\n".join(sorted(set(event_ids))).encode(), digest_size=16).digest()
        async with room.turns.take("deliveries"):
            nid = room.given_states.get(digest)
            if nid is not None and await get_snapshot_walk(self._database, room.room_nid, nid):
                return GivenStateAnswer(nid)
            found, absent = await StateEntries(room, self._database).by_id(event_ids)
            if absent:
                return GivenStateAnswer(missing=absent[:_MAX_NAMED])
            given = {one.key: one.entry for one in found.values() if not one.is_rejected}
            await self._numbers.reserve(1)
            nid = self._numbers.take()
            async with room.hold():
                # The snapshot names what differs from the line, which must be stored, and must not move meanwhile.
                await room.finish_writes()
                snapshot = await _snapshot(room, nid, given)
            await store_given_state(self._write, room.room_nid, snapshot)
            room.given_states.note(digest, nid)
            return GivenStateAnswer(nid)


async def _snapshot(room: LiveRoom, nid: int, given: Mapping[StateKey, StateEntry]) -> Snapshot:
    """Return the snapshot of a state. The room's own writes wait."""
    head = room.state.head
    if room.lost:
        raise RoomLost("The room is moving")
    removed: list[int] = []
    entries = room.state.entries()
    while page := list(itertools.islice(entries, _AT_ONCE)):
        removed += [entry.event_nid for key, entry in page if key not in given]
        await asyncio.sleep(0)
        if room.state.head is not head:
            raise Unavailable("The room changed while a state was stored. Try again")
    added: list[int] = []
    walked = iter(given.items())
    while some := list(itertools.islice(walked, _AT_ONCE)):
        for key, entry in some:
            current = room.state.entry(*key)
            if current is None or current.event_nid != entry.event_nid:
                added.append(entry.event_nid)
        await asyncio.sleep(0)
    if room.state.head is not head:
        raise Unavailable("The room changed while a state was stored. Try again")
    return Snapshot(nid, None, head.ordinal + 1, 0, tuple(sorted(added)), tuple(sorted(removed)))
