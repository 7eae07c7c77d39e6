"""Which event another one relates to, and how. Spec: client-server API, "Forming relationships between events"."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

REPLACE, THREAD, REFERENCE = "m.replace", "m.thread", "m.reference"
_KEY = b'"m.relates_to"'
_MAX_BYTES = 255  # the longest event id there is, and more than any relationship type that was ever named


class Relation(NamedTuple):
    """rel_type: how; event_id: to which event, which need not exist."""

    rel_type: str
    event_id: str


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """Return the relation in an event's content; None without one, and for one that doesn't match the schema.

    Rich replies have no `rel_type`: they are none here.
    """
    stated = content.get("m.relates_to")
    if not isinstance(stated, dict):
        return None
    rel_type, event_id = stated.get("rel_type"), stated.get("event_id")
    if not (isinstance(rel_type, str) and isinstance(event_id, str) and rel_type and event_id):
        return None
    try:
        longest = max(len(rel_type.encode()), len(event_id.encode()))
    except UnicodeEncodeError:  # half of a surrogate pair, which no id has
        return None
    return Relation(rel_type, event_id) if longest <= _MAX_BYTES else None


def relation_of_json(pdu: bytes) -> Relation | None:
    """Return the relation of an event given as canonical JSON; few have one, and only those are decoded."""
    if _KEY not in pdu:
        return None
    content = json.loads(pdu).get("content")  # not orjson: rooms of old versions have integers beyond 64 bits
    return relation_of(content) if isinstance(content, dict) else None
