"""Reactions and the like: what a user has annotated an event with. Spec: client-server API, "Event annotations"."""

import json

from shared.storage.escape import escape
from shared.storage.read_source import Source

_MAX = 1000  # of one user on one event
#: Uses events_of_annotations.
_KEYS = """
    SELECT json FROM events
    WHERE room_nid = $1 AND relates_to = $2 AND sender = $3 AND rel_type = 'm.annotation' AND type = $4
      AND status = 0 AND redacted_by IS NULL LIMIT $5
"""


async def get_annotation_keys(source: Source, room_nid: int, event_id: str, sender: str, event_type: str) -> set[str]:
    """Return the keys of a user's annotations of an event, of one event type; redacted ones count no more."""
    rows = await source.fetch(_KEYS, room_nid, escape(event_id), escape(sender), escape(event_type), _MAX)
    # Not orjson: rooms of old versions have integers beyond 64 bits.
    keys = (json.loads(row["json"])["content"]["m.relates_to"].get("key") for row in rows)
    return {key for key in keys if isinstance(key, str)}
