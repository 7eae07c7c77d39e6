"""PURE: the values of one key of a room's state over time, and the user's joins among them."""

from collections.abc import Sequence

import orjson

from shared.core.canonical_json import decode_json_exactly
from shared.core.events.event import event_from_storage
from shared.core.identifiers import EventId
from shared.core.room_versions import RoomVersion
from shared.storage.rooms.state import KeyChange


def history(changes: Sequence[KeyChange], field: str) -> list[tuple[int, str]]:
    """Return (ordinal, value of a content field) for each change. The default replaces a value that is not text."""
    default = "shared" if field == "history_visibility" else "leave"
    return [(change.ordinal, _content_text(change.json, field, default)) for change in changes]


def _content_text(pdu: bytes | None, field: str, default: str) -> str:
    if pdu is None:
        return default
    try:
        content = orjson.loads(pdu)["content"]
    except orjson.JSONDecodeError:  # old room versions allow integers of any size and lone surrogates
        content = decode_json_exactly(pdu)["content"]
    value = content.get(field)
    return value if isinstance(value, str) else default


def joined_by(version: RoomVersion, changes: Sequence[KeyChange], ordinal: int, time_ms: int) -> bool:
    """Return True if the user joined at an ordinal or later, but not after a time (ms).

    changes: of the user's membership. The time of a join is its `origin_server_ts`: for local users this server's
    clock, which also gives the times of erasures.
    """
    own = (
        event_from_storage(version, change.json, EventId("$"))
        for change in changes
        if change.ordinal >= ordinal and change.json is not None
    )
    return any(join.content.get("membership") == "join" and join.origin_server_ts <= time_ms for join in own)
