"""Reading `m.room.power_levels`. Spec: client-server API, "m.room.power_levels".

Old rooms have levels that are strings (" +100 ", up to version 9) or floats (50.57, up to version 5); see rooms/v1,
"Deprecated event content schemas". A value that the version cannot read counts as absent.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shared.core.events.event import Event
from shared.core.events.readers.create import creators_of
from shared.core.identifiers import UserId
from shared.core.room_versions import RoomVersion

#: The level of creators where they outrank everyone (rooms/v12), above every level that JSON may hold there.
INFINITE_POWER = 2**63 - 1

#: The level of the creator in a room without the event, where creators do not outrank everyone.
_CREATOR_POWER = 100

#: The levels that are single properties, with their defaults, also used if the room has no such event.
DEFAULT_LEVELS: Mapping[str, int] = {
    "ban": 50,
    "kick": 50,
    "redact": 50,
    "invite": 0,
    "state_default": 50,
    "events_default": 0,
    "users_default": 0,
}
_DEFAULT_NOTIFICATION_LEVELS: Mapping[str, int] = {"room": 50}

_STRING_LEVEL_RE = re.compile(r"\s*[+-]?[0-9]+\s*", re.ASCII)
# int() of a longer text is slow, and an error above 4,300 digits. No level needs that.
_MAX_STRING_LEVEL_CHARS = 255


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLevels:
    """A room's power levels, with defaults filled in.

    users, events, notifications: only the event's own entries. The methods fill in the rest.
    creators: users of infinite level; empty if the version does not know such users.
    """

    users: Mapping[str, int]
    events: Mapping[str, int]
    notifications: Mapping[str, int]
    users_default: int
    events_default: int
    state_default: int
    ban: int
    kick: int
    redact: int
    invite: int
    creators: frozenset[UserId]

    def user_level(self, user_id: UserId) -> int:
        """Return the user's level, member or not. Creators who outrank everyone have INFINITE_POWER."""
        if user_id in self.creators:
            return INFINITE_POWER
        return self.users.get(user_id, self.users_default)

    def event_level(self, event_type: str, is_state: bool) -> int:
        """Return the level needed to send such an event. Memberships follow `invite`, `kick` and `ban` instead."""
        return self.events.get(event_type, self.state_default if is_state else self.events_default)

    def notification_level(self, key: str) -> int:
        """Return the level needed to notify everyone, for instance by "@room" (key "room"). The default is 50."""
        return self.notifications.get(key, _DEFAULT_NOTIFICATION_LEVELS.get(key, 50))


def power_levels_of(version: RoomVersion, create: Event, power_levels: Event | None) -> PowerLevels:
    """Return the room's power levels.

    power_levels: the room's event. If it is None, a creator has 100 (from version 12 on infinite level).
    """
    creators = creators_of(version, create)
    content: Mapping[str, Any] = {} if power_levels is None else power_levels.content
    users = read_level_map(version, content.get("users"))
    if power_levels is None and not version.creators_outrank_all:
        users = dict.fromkeys(creators, _CREATOR_POWER)
    levels = {name: _or_default(version, content, name, default) for name, default in DEFAULT_LEVELS.items()}
    return PowerLevels(
        users=users,
        events=read_level_map(version, content.get("events")),
        notifications=read_level_map(version, content.get("notifications")),
        creators=creators if version.creators_outrank_all else frozenset(),
        **levels,
    )


def read_level(version: RoomVersion, value: Any) -> int | None:
    """Return a level as an integer, or None if the room version does not accept the value.

    Spec: rooms/v1, "m.room.power_levels events accept values as strings" and "... as floats"; rooms/v10, rule 9.
    """
    if type(value) is int:
        return value
    if version.integer_power_levels:
        return None
    if isinstance(value, str):
        if len(value) <= _MAX_STRING_LEVEL_CHARS and _STRING_LEVEL_RE.fullmatch(value):
            return int(value)
        return None
    if version.float_power_levels and isinstance(value, float) and math.isfinite(value):
        return int(value)
    return None


def read_level_map(version: RoomVersion, value: Any) -> dict[str, int]:
    """Return the readable entries of `users`, `events` or `notifications`, none if it is not an object."""
    if not isinstance(value, Mapping):
        return {}
    levels = {key: read_level(version, level) for key, level in value.items()}
    return {key: level for key, level in levels.items() if level is not None}


def _or_default(version: RoomVersion, content: Mapping[str, Any], name: str, default: int) -> int:
    level = read_level(version, content.get(name))
    return default if level is None else level
