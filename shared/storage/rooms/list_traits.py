"""The traits of rooms that lists are sorted and filtered by: the last event, and a few keys of the state."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import orjson

from shared.core.events.event import event_from_storage
from shared.core.identifiers import RoomId, UserId
from shared.core.room_versions import get_room_version
from shared.storage.engine.pool import Source

CREATE, ENCRYPTION, NAME = "m.room.create", "m.room.encryption", "m.room.name"
TRAIT_TYPES = (CREATE, ENCRYPTION, NAME)
_MAX_TEXT_CHARS = 500  # of a name or type: the rest of a longer one, up to 64 KB, is neither kept nor searched

#: Uses the primary key of rooms and events_room_nid_ordinal_key.
_LAST = """
    SELECT r.room_nid, r.room_id, r.room_version, e.writer, e.position
    FROM rooms r CROSS JOIN LATERAL (
        SELECT writer, position FROM events
        WHERE room_nid = r.room_nid AND ordinal IS NOT NULL ORDER BY ordinal DESC LIMIT 1
    ) e WHERE r.room_nid = ANY($1::bigint[])
"""
#: Uses the primary keys of current_state and events.
_STATE = """
    SELECT s.room_nid, s.type, e.event_id, e.json, e.redacted_by IS NOT NULL
    FROM current_state s JOIN events e USING (room_nid, event_nid)
    WHERE s.room_nid = ANY($1::bigint[]) AND s.type = ANY($2::text[]) AND s.state_key = ''
"""
#: Uses events_room_nid_ordinal_key, for at most $3 events.
_BUMPED = """
    SELECT position FROM (
        SELECT ordinal, position, type, status FROM events
        WHERE room_nid = $1 AND ordinal IS NOT NULL AND ordinal < $2 ORDER BY ordinal DESC LIMIT $3
    ) AS latest WHERE type = ANY($4::text[]) AND status = 0 ORDER BY ordinal DESC LIMIT 1
"""
#: Uses the primary keys of state_changes and events.
_MEMBER_EVENTS = """
    SELECT c.room_nid, e.json FROM state_changes c JOIN events e USING (room_nid, event_nid)
    WHERE c.room_nid = ANY($1::bigint[]) AND c.type = 'm.room.member' AND c.state_key = $2
"""


@dataclass(slots=True)
class RoomTraits:
    """The traits of a room.

    writer, position: of the last event.
    type: of the room, if it has one.
    named_by: the sender of the name. If they are erased, no filter finds the room by their words.
    """

    room_nid: int
    writer: int
    position: int
    type: str | None = None
    encrypted: bool = False
    name: str | None = None
    named_by: UserId | None = None

    def set_state(self, type_: str, sender: UserId, content: dict[str, Any]) -> None:
        """Apply a state event of one of TRAIT_TYPES."""
        if type_ == CREATE:
            self.type = _text(content.get("type"))
        elif type_ == ENCRYPTION:
            self.encrypted = True
        elif type_ == NAME:
            self.name, self.named_by = _text(content.get("name")) or None, sender


async def get_room_traits(source: Source, room_nids: Collection[int]) -> dict[RoomId, RoomTraits]:
    """Return the traits of those of the rooms that exist here, by id."""
    traits, versions, ids = {}, {}, {}
    for nid, room_id, version, writer, position in await source.fetch(_LAST, list(room_nids)):
        traits[nid] = RoomTraits(nid, writer, position)
        versions[nid], ids[nid] = get_room_version(version), room_id
    for nid, type_, event_id, json, redacted in await source.fetch(_STATE, list(traits), list(TRAIT_TYPES)):
        if redacted and type_ == NAME:
            continue
        event = event_from_storage(versions[nid], json, event_id)
        traits[nid].set_state(type_, event.sender, dict(event.content))
    return {ids[nid]: found for nid, found in traits.items()}


async def get_last_of_types(
    source: Source, room_nid: int, before_ordinal: int, types: Collection[str], max_events: int
) -> int | None:
    """Return the position of the latest event of these types among the `max_events` events before an ordinal."""
    position: int | None = await source.fetchval(_BUMPED, room_nid, before_ordinal, max_events, list(types))
    return position


async def get_rooms_once_joined(source: Source, user_id: UserId, room_nids: Collection[int]) -> set[int]:
    """Return those of the rooms that the user has been joined to at some time."""
    rows = await source.fetch(_MEMBER_EVENTS, list(room_nids), user_id)
    return {nid for nid, json in rows if orjson.loads(json)["content"].get("membership") == "join"}


def _text(value: object) -> str | None:
    return value[:_MAX_TEXT_CHARS] if isinstance(value, str) else None
