"""Look-ups in a cached room, from memory where it reaches far enough, else from Postgres.

What they read goes into the cache where it serves the next reader.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.core.events.event import event_from_storage
from shared.core.events.redaction import redact_pdu
from shared.core.identifiers import EventId, UserId
from shared.core.sync_tokens.vector import Vector
from shared.metrics.synchrotron import SyncMetrics
from shared.rooms.decoding import events_from_rows
from shared.rooms.state_history import history
from shared.rooms.timeline_event import MEMBER, TimelineEvent, event_from_row
from shared.runtime.slices import Slices
from shared.storage.engine.pool import Database, Source
from shared.storage.events.relations import RelatedRow, get_related
from shared.storage.events.timeline import get_events_by_nid, get_ordinal_at, get_timeline_before
from shared.storage.rooms.memberships import SummaryRecord, get_summary
from shared.storage.rooms.state import get_key_history, get_keys_before, get_members_before, get_state_before
from shared.storage.rooms.state_changes import get_keys_held, get_last_changes, get_members_held
from workers.synchrotron.rooms.cached_room import CachedRoom, StateEntry, StateKey
from workers.synchrotron.rooms.room_cache import RoomCache


class RoomLookups:
    """The events, state and summary of rooms in memory, as of any ordinal."""

    def __init__(self, cache: RoomCache, database: Database, reads: Source, metrics: SyncMetrics) -> None:
        self._cache = cache
        self._database = database
        self._reads = reads
        self._metrics = metrics

    async def ordinal_at(self, room: CachedRoom, vector: Vector) -> int:
        """Return the ordinal of the room's last event that a vector covers, 0 for none."""
        ordinal = room.ordinal_at(vector.covers)
        if ordinal is None:
            ordinal = await get_ordinal_at(self._reads, room.room_nid, vector.known, vector.base, vector.above)
        return ordinal

    async def events_before(self, room: CachedRoom, ordinal: int, limit: int) -> list[TimelineEvent]:
        """Return the last `limit` events before an ordinal (exclusive) from Postgres, ascending."""
        rows = await get_timeline_before(self._reads, room.room_nid, ordinal, limit)
        return await events_from_rows(room.version, reversed(rows))

    async def load_previous(self, room: CachedRoom, events: Iterable[TimelineEvent]) -> None:
        """Read the events that state events replaced, where only their numbers are known: member events mostly."""
        missing = {
            event.replaces_nid: event for event in events if event.replaces_nid is not None and event.previous is None
        }
        if not missing:
            return
        nids = [nid for nid in missing if nid is not None]
        for row in await get_events_by_nid(self._reads, room.room_nid, nids):
            replaced = event_from_row(room.version, row)
            event = missing[row.event_nid]
            event.previous = replaced.as_previous()
            room.recount(event)
            room.add_previous(event, replaced)

    async def related(
        self, room: CachedRoom, event_ids: Sequence[EventId], limit: int
    ) -> Mapping[EventId, Sequence[RelatedRow]]:
        """Return the relations of events from before those in memory, at most `limit` of each."""
        return await get_related(self._reads, room.room_nid, event_ids, limit)

    async def events_by_number(self, room: CachedRoom, event_nids: Sequence[int]) -> dict[int, TimelineEvent]:
        """Return events from Postgres by number."""
        rows = await get_events_by_nid(self._reads, room.room_nid, event_nids)
        return {event.event_nid: event for event in await events_from_rows(room.version, rows)}

    async def pdus(self, room: CachedRoom, events: Iterable[TimelineEvent]) -> dict[int, dict[str, Any]]:
        """Return the events in the federation format by number, redacted where `events` are."""
        wanted = {event.event_nid: event for event in events}
        rows = await get_events_by_nid(self._reads, room.room_nid, list(wanted)) if wanted else []
        pdus, slices = {}, Slices()
        for row in rows:
            await slices.rest()
            pdu = event_from_storage(room.version, row.json, row.event_id).pdu
            redacted = wanted[row.event_nid].redacted_because is not None
            pdus[row.event_nid] = redact_pdu(room.version, pdu) if redacted else dict(pdu)
        return pdus

    async def state_before(self, room: CachedRoom, ordinal: int, *, members: bool) -> dict[StateKey, TimelineEvent]:
        """Return the state just before an ordinal, with its member events or without."""
        whole: dict[StateKey, TimelineEvent] = {}
        if ordinal < room.changes_from:  # keys that left the state since then are not in memory
            rows = await get_state_before(self._reads, room.room_nid, ordinal, members=members)
            return _by_key(await events_from_rows(room.version, rows))
        if members and not room.members_complete and not await self._load_members(room):
            rows = await get_members_before(self._reads, room.room_nid, ordinal)
            whole = _by_key(await events_from_rows(room.version, rows))
            members = False
        keys = [key for key in room.state if members or key[0] != MEMBER]
        whole.update(await self.keys_before(room, ordinal, keys))
        return whole

    async def keys_before(
        self, room: CachedRoom, ordinal: int, keys: Iterable[StateKey]
    ) -> dict[StateKey, TimelineEvent]:
        """Return these keys of the state just before an ordinal. Absent keys are left out."""
        state: dict[StateKey, TimelineEvent] = {}
        missing: list[StateKey] = []
        for key in keys:
            found = room.state_before(key, ordinal)
            if not found.known:
                missing.append(key)
            elif found.event is not None:
                state[key] = found.event
        if missing:
            state.update(await self._read_keys(room, ordinal, missing))
        return state

    async def _read_keys(
        self, room: CachedRoom, ordinal: int, missing: Sequence[StateKey]
    ) -> dict[StateKey, TimelineEvent]:
        end = room.last_ordinal + 1
        absent = [key for key in missing if key not in room.state]
        if absent:
            # Members who are new to this memory: their current events are kept, since they will send again.
            rows = await get_keys_held(self._reads, room.room_nid, end, absent)
            self._cache.add_members(room, [one for one in rows if one.type == MEMBER], complete=False)
        state = {}
        still_missing = []
        for key in missing:
            found = room.state_before(key, ordinal)
            if found.known and found.event is not None:
                state[key] = found.event
            elif not found.known and (key in room.state or ordinal < room.changes_from):
                still_missing.append(key)
        if still_missing:
            found_rows = await get_keys_before(self._reads, room.room_nid, ordinal, still_missing)
            state.update(_by_key(await events_from_rows(room.version, found_rows)))
        return state

    async def _load_members(self, room: CachedRoom) -> bool:
        """Load all members into memory. Return False if there are too many."""
        if room.has_many_members:
            return False
        rows = await get_members_held(self._reads, room.room_nid, room.last_ordinal + 1)
        self._cache.add_members(room, rows, complete=True)
        return True

    async def last_changes(self, room: CachedRoom, above: int, up_to: int) -> dict[StateKey, StateEntry]:
        """Return the last change of each key that changed above one ordinal and up to another (inclusive)."""
        changes = room.changes_between(above, up_to)
        if changes is not None:
            return {entry.key: entry for entry in changes}
        rows = await get_last_changes(self._reads, room.room_nid, above + 1, up_to + 1)
        last, slices = {}, Slices()
        for row in rows:
            await slices.rest()
            assert row.since is not None
            key = (row.type, row.state_key)
            last[key] = StateEntry(row.since, key, None if row.row is None else event_from_row(room.version, row.row))
        return last

    async def member_history(self, room: CachedRoom, user_id: UserId, from_ordinal: int) -> list[tuple[int, str]]:
        """Return (ordinal, membership) for the changes of a user's membership, complete from an ordinal on."""
        known: list[tuple[int, str]] = []
        entry = room.state.get((MEMBER, user_id))
        while entry is not None:
            known.append((entry.since, (entry.event and entry.event.membership) or "leave"))
            if entry.since < from_ordinal or (entry.was_absent and from_ordinal >= room.changes_from):
                return known[::-1]
            entry = entry.previous
        if not known and room.members_complete and from_ordinal >= room.changes_from:
            return []
        changes = await get_key_history(self._reads, room.room_nid, MEMBER, user_id)
        return history(changes, "membership")

    async def summary(self, room: CachedRoom) -> SummaryRecord:
        """Return the room's current member counts and heroes."""
        if room.summary is not None:
            return room.summary
        at = room.last_ordinal
        self._metrics.queries.inc()
        async with self._database.connection() as connection:
            summary = await get_summary(connection, room.room_nid)
        if room.last_ordinal == at:
            room.summary = summary
        return summary


def _by_key(events: Iterable[TimelineEvent]) -> dict[StateKey, TimelineEvent]:
    return {event.key: event for event in events if event.key is not None}
