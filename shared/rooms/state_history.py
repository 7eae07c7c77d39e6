"""PURE: what one key of a room's state said over time, and when a user joined by it."""

from collections.abc import Sequence

import orjson

from shared.core.canonical_json import decode_json_exactly
from shared.core.events.event import event_from_storage
from shared.core.room_versions import RoomVersion
from shared.storage.rooms.state import KeyChange


def history(changes: Sequence[KeyChange], field: str) -> list[tuple[int, str]]:
    """Return (ordinal, value of a content field) of a state key's history. A value that is no text is the default."""
    default = "shared" if field == "history_visibility" else "leave"
    return [(change.ordinal, _content_text(change.json, field, default)) for change in changes]


def _content_text(pdu: bytes | None, field: str, default: str) -> str:
    if pdu is None:
        return default
    try:
        content = orjson.loads(pdu)["content"]
    except orjson.JSONDecodeError:  # old room versions allow integers of any size, and lone surrogates
        content = decode_json_exactly(pdu)["content"]
    value = content.get(field)
    return value if isinstance(value, str) else default


def joined_by(version: RoomVersion, changes: Sequence[KeyChange], ordinal: int, time_ms: int) -> bool:
    """Return whether he joined at an ordinal or later, and not after that time. changes: of his membership.

    By the time in his own join: of our users it is our clock's, as is that of an erasure.
    """
    own = (
        event_from_storage(version, change.json, "$")
        for change in changes
        if change.ordinal >= ordinal and change.json is not None
    )
    return any(join.content.get("membership") == "join" and join.origin_server_ts <= time_ms for join in own)
