"""The entries of states, by the numbers or ids of their events, read without the events' JSON."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import orjson

from shared.core.identifiers import EventId, UserId
from shared.storage.engine.pool import Source
from shared.storage.events.batch import REJECTED
from shared.storage.events.state_entries import StateEntryRow, get_json, get_state_entries, get_state_entries_by_nid
from workers.event_persister.room.drafts import BuiltEvent, RoomChanged, StateEntry, StateKey
from workers.event_persister.room.live_room import LiveRoom

_PAGE = 1000  # rows: some 5 ms
_MEMBER = "m.room.member"


class FoundEntry(NamedTuple):
    """A state event as an entry of a state. sender: of the event."""

    key: StateKey
    entry: StateEntry
    sender: UserId
    is_rejected: bool


class StateEntries:
    """Reads entries. Events that are not stored yet come from the room's memory."""

    def __init__(self, room: LiveRoom, source: Source) -> None:
        self._room = room
        self._source = source

    async def by_nid(self, event_nids: Iterable[int]) -> dict[int, FoundEntry]:
        """Return the state events among these. Raises RoomChanged if one of the events is gone."""
        found: dict[int, FoundEntry] = {}
        stored: list[int] = []
        gone = 0
        for nid in dict.fromkeys(event_nids):
            if (built := self._room.state.built_with(nid)) is None:
                stored.append(nid)
            elif (entry := _entry_of(built)) is not None:
                found[nid] = entry
        for first in range(0, len(stored), _PAGE):
            page = stored[first : first + _PAGE]
            rows = await get_state_entries_by_nid(self._source, self._room.room_nid, page)
            gone += len(page) - len(rows)
            found.update((one.entry.event_nid, one) for one in await self._entries(rows))
            await asyncio.sleep(0)
        if gone:
            raise RoomChanged
        return found

    async def by_id(self, event_ids: Sequence[EventId]) -> tuple[dict[EventId, FoundEntry], list[EventId]]:
        """Return the state events among these by id, and the ids of no event of the room."""
        found: dict[EventId, FoundEntry] = {}
        stored: list[EventId] = []
        absent: list[EventId] = []
        for event_id in dict.fromkeys(event_ids):
            if (built := self._room.state.built_event(event_id)) is None:
                stored.append(event_id)
            elif (entry := _entry_of(built)) is not None:
                found[event_id] = entry
        for first in range(0, len(stored), _PAGE):
            page = stored[first : first + _PAGE]
            rows = await get_state_entries(self._source, self._room.room_nid, page)
            here = {row.event_id for row in rows}
            absent += [event_id for event_id in page if event_id not in here]
            found.update((one.entry.event_id, one) for one in await self._entries(rows))
            await asyncio.sleep(0)
        return found, absent

    async def _entries(self, rows: Sequence[StateEntryRow]) -> list[FoundEntry]:
        memberships = await self._memberships(rows)
        return [
            FoundEntry(
                (row.type, row.state_key),
                StateEntry(row.event_nid, row.event_id, row.membership or memberships.get(row.event_nid)),
                row.sender,
                row.status == REJECTED,
            )
            for row in rows
            if row.state_key is not None
        ]

    async def _memberships(self, rows: Sequence[StateEntryRow]) -> dict[int, str | None]:
        """Return the memberships that only the room's memory or the JSON has."""
        memberships: dict[int, str | None] = {}
        unknown: list[int] = []
        for row in rows:
            if row.type != _MEMBER or row.state_key is None or row.membership is not None:
                continue
            current = self._room.state.entry(row.type, row.state_key)
            if current is not None and current.event_nid == row.event_nid:
                memberships[row.event_nid] = current.membership
            else:
                unknown.append(row.event_nid)
        if unknown:
            for nid, json in (await get_json(self._source, self._room.room_nid, unknown)).items():
                memberships[nid] = _membership_in(json)
        return memberships


def _entry_of(built: BuiltEvent) -> FoundEntry | None:
    event = built.event
    if event.state_key is None:
        return None
    entry = StateEntry(built.event_nid, event.event_id, built.membership)
    return FoundEntry((event.type, event.state_key), entry, event.sender, built.graph.status == REJECTED)


def _membership_in(json: bytes) -> str | None:
    membership = orjson.loads(json)["content"].get("membership")
    return membership if isinstance(membership, str) else None
