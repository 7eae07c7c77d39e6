"""The relation of an event to another one. Spec: client-server API, "Forming relationships between events"."""

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from shared.core.identifiers import EventId

REPLACE, THREAD, REFERENCE = "m.replace", "m.thread", "m.reference"
_KEY = b'"m.relates_to"'
_MAX_BYTES = 255  # the limit of event ids; relationship types are shorter


class Relation(NamedTuple):
    """The relationship type, and the id of the target event, which need not exist."""

    rel_type: str
    event_id: EventId


def relation_of(content: Mapping[str, Any]) -> Relation | None:
    """Return the relation in an event's content, or None if there is none or it doesn't match the schema.

    Rich replies have no `rel_type`, so they are not relations here.
    """
    stated = content.get("m.relates_to")
    if not isinstance(stated, dict):
        return None
    rel_type, event_id = stated.get("rel_type"), stated.get("event_id")
    if not (isinstance(rel_type, str) and isinstance(event_id, str) and rel_type and event_id):
        return None
    try:
        longest = max(len(rel_type.encode()), len(event_id.encode()))
    except UnicodeEncodeError:  # a lone surrogate, which no id has
        return None
    return Relation(rel_type, EventId(event_id)) if longest <= _MAX_BYTES else None


def relation_of_json(pdu: bytes) -> Relation | None:
    """Return the relation of an event in canonical JSON. Only the few events that may have one are decoded."""
    if _KEY not in pdu:
        return None
    content = json.loads(pdu).get("content")  # not orjson: old room versions allow integers beyond 64 bits
    return relation_of(content) if isinstance(content, dict) else None
