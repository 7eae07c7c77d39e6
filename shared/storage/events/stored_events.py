"""Single events as they are stored, with their redactions."""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import EventId, UserId
from shared.storage.engine.pool import Connection, Database

#: Uses events_by_id.
_BY_ID = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE event_id = $2 AND room_nid = $1 AND status IN (0, 4)
"""
#: Uses the primary key.
_BY_NIDS = """
    SELECT event_nid, event_id, type, state_key, sender, redacted_by, json FROM events
    WHERE room_nid = $1 AND event_nid = ANY($2::bigint[])
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredEvent:
    """An event as stored. redacted_by: the redaction that applies to it."""

    event_nid: int
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId
    redacted_by: int | None
    json: bytes


async def get_event_by_id(database: Database, room_nid: int, event_id: EventId) -> StoredEvent | None:
    """Return an accepted event of the room; also one that was purged from its timeline and stays as state."""
    row = await database.fetchrow(_BY_ID, room_nid, event_id)
    return None if row is None else StoredEvent(**row)


async def get_events(source: Database | Connection, room_nid: int, event_nids: Sequence[int]) -> list[StoredEvent]:
    """Return the room's events with these numbers, in no particular order; unknown ones are left out."""
    return [StoredEvent(**row) for row in await source.fetch(_BY_NIDS, room_nid, list(event_nids))]
