"""Room versions as records of rules. Code asks for a rule and never compares version numbers."""

from shared.core.room_versions.rules import EventIdFormat, RedactionRules, RoomVersion, StateResolution
from shared.core.room_versions.versions import DEFAULT_ROOM_VERSION, ROOM_VERSIONS, get_room_version

__all__ = [
    "DEFAULT_ROOM_VERSION",
    "ROOM_VERSIONS",
    "EventIdFormat",
    "RedactionRules",
    "RoomVersion",
    "StateResolution",
    "get_room_version",
]
