"""PURE: what one key of a room's state said over time."""

from collections.abc import Sequence

import orjson

from shared.storage.read_state import KeyChange


def history(changes: Sequence[KeyChange], field: str) -> list[tuple[int, str]]:
    """Return (ordinal, value of a content field) of a state key's history; unreadable values as their defaults."""
    default = "shared" if field == "history_visibility" else "leave"
    return [(change.ordinal, _content_text(change.json, field, default)) for change in changes]


def _content_text(json: bytes | None, field: str, default: str) -> str:
    if json is None:
        return default
    value = orjson.loads(json)["content"].get(field)
    return value if isinstance(value, str) else default
