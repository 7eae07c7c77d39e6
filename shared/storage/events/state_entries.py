"""State events as the entries of a state: which key each one sets, and for members which membership, without JSON."""

from collections.abc import Sequence
from typing import NamedTuple

from shared.core.identifiers import EventId, UserId
from shared.storage.engine.pool import Source

_COLUMNS = "event_nid, event_id, type, state_key, sender, status, membership"
#: Uses events_by_id.
_BY_ID = f"SELECT {_COLUMNS} FROM events WHERE event_id = ANY($2::text[]) AND room_nid = $1"
#: Uses the primary key.
_BY_NID = f"SELECT {_COLUMNS} FROM events WHERE event_nid = ANY($2::bigint[]) AND room_nid = $1"
#: Uses the primary key.
_JSON = "SELECT event_nid, json FROM events WHERE event_nid = ANY($2::bigint[]) AND room_nid = $1"


class StateEntryRow(NamedTuple):
    """An event of a room.

    state_key: None if it is no state event.
    membership: of a member event. None: it is only in the JSON (`get_json`).
    """

    event_nid: int
    event_id: EventId
    type: str
    state_key: str | None
    sender: UserId
    status: int
    membership: str | None


async def get_state_entries(source: Source, room_nid: int, event_ids: Sequence[EventId]) -> list[StateEntryRow]:
    """Return the room's events with these ids, whatever their status, in no particular order."""
    return [StateEntryRow(*row) for row in await source.fetch(_BY_ID, room_nid, list(event_ids))]


async def get_state_entries_by_nid(source: Source, room_nid: int, nids: Sequence[int]) -> list[StateEntryRow]:
    """Return the room's events with these numbers, in no particular order."""
    return [StateEntryRow(*row) for row in await source.fetch(_BY_NID, room_nid, list(nids))]


async def get_json(source: Source, room_nid: int, nids: Sequence[int]) -> dict[int, bytes]:
    """Return the PDUs of events by number."""
    return {row[0]: row[1] for row in await source.fetch(_JSON, room_nid, list(nids))}
