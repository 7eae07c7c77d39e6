"""PURE: when a user joined a room, by his own member events."""

from collections.abc import Sequence

from shared.core.events.event import event_from_storage
from shared.core.room_versions import RoomVersion
from shared.storage.read_state import KeyChange


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
