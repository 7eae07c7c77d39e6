"""The rule for `m.room.power_levels`. Spec: rooms/v1 (rule 10), v6, v10 (rule 9), v12 (rule 10)."""

from collections.abc import Mapping
from typing import Any

from shared.core.event_auth.rule_numbers import violation
from shared.core.events.event import Event
from shared.core.events.readers.create import creators_of
from shared.core.events.readers.power_levels import DEFAULT_LEVELS, read_level, read_level_map
from shared.core.identifiers import UserId, is_user_id
from shared.core.room_versions import RoomVersion


def check_power_levels(
    version: RoomVersion, event: Event, current: Event | None, create: Event, sender_level: int
) -> None:
    """Raise AuthRuleViolation unless the sender may set these levels.

    current: the room's present `m.room.power_levels`, None if there is none.
    sender_level: the sender's level under `current`.
    """
    _check_values(version, event.content)
    if version.creators_outrank_all:
        named = event.content.get("users", {})
        for creator in creators_of(version, create):
            if creator in named:
                reason = f"creator {creator} must not appear in users of m.room.power_levels"
                raise violation(version, "power_levels/creators", "", reason)
    if current is None:
        return
    _check_properties(version, current.content, event.content, sender_level)
    _check_entries(version, current.content, event.content, sender_level)
    _check_users(version, event.sender, current.content, event.content, sender_level)


def _check_values(version: RoomVersion, content: Mapping[str, Any]) -> None:
    """Check that the room version can read the values.

    From version 10 on there are rules for this. Before that only `users` has a rule. Other values that cannot be read
    cannot be compared, so they are refused too.
    """
    integers, maps = (
        ("power_levels/integers", "power_levels/maps")
        if version.integer_power_levels
        else ("power_levels", "power_levels")
    )
    for name in DEFAULT_LEVELS:
        if name in content and read_level(version, content[name]) is None:
            raise violation(version, integers, "", f"{name} is no power level")
    for field in _entry_fields(version):
        if field in content and not _is_level_map(version, content[field]):
            raise violation(version, maps, "", f"{field} must hold power levels")
    users = content.get("users", {})
    if not _is_level_map(version, users) or not all(is_user_id(user_id) for user_id in users):
        raise violation(version, "power_levels/users", "", "users must map user ids to power levels")


def _is_level_map(version: RoomVersion, value: Any) -> bool:
    return isinstance(value, Mapping) and all(read_level(version, level) is not None for level in value.values())


def _check_properties(version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], sender_level: int) -> None:
    for name in DEFAULT_LEVELS:
        before, after = read_level(version, old.get(name)), read_level(version, new.get(name))
        if before == after:
            continue
        if before is not None and before > sender_level:
            raise violation(version, "power_levels/properties", "1", f"{name} is above the sender's level")
        if after is not None and after > sender_level:
            raise violation(version, "power_levels/properties", "2", f"{name} would be above the sender's level")


def _check_entries(version: RoomVersion, old: Mapping[str, Any], new: Mapping[str, Any], sender_level: int) -> None:
    changes = [change for field in _entry_fields(version) for change in _changes(version, field, old, new)]
    for key, before, _ in changes:
        if before is not None and before > sender_level:
            raise violation(
                version, "power_levels/old_entries", "1", f"the entry for {key!r} is above the sender's level"
            )
    for key, _, after in changes:
        if after is not None and after > sender_level:
            raise violation(
                version, "power_levels/new_entries", "1", f"the entry for {key!r} would be above the sender's level"
            )


def _check_users(
    version: RoomVersion, sender: UserId, old: Mapping[str, Any], new: Mapping[str, Any], sender_level: int
) -> None:
    changes = _changes(version, "users", old, new)
    for user_id, before, _ in changes:
        if before is not None and user_id != sender and before >= sender_level:
            raise violation(version, "power_levels/old_users", "1", "another user's level is not below the sender's")
    for _, _, after in changes:
        if after is not None and after > sender_level:
            raise violation(version, "power_levels/new_users", "1", "a user's level would be above the sender's")


def _entry_fields(version: RoomVersion) -> tuple[str, ...]:
    return ("events", "notifications") if version.notification_levels_checked else ("events",)


def _changes(
    version: RoomVersion, field: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> list[tuple[str, int | None, int | None]]:
    """Return (key, level before, level after) of the entries that differ. A level is None if there is no entry."""
    before, after = read_level_map(version, old.get(field)), read_level_map(version, new.get(field))
    return [
        (key, before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    ]
