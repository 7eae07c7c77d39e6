"""What was begun and has to be brought to its end, by whichever background worker looks first.

Each table of such work has a time at which somebody should look. Who takes rows moves that time on, so that others
leave them alone meanwhile, and someone comes back should he die: 2, 4, 8 ... seconds later, an hour at most. An upgrade
that failed for a day is given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Database

_TAKE = """
    UPDATE {table} SET look_at = clock_timestamp() + make_interval(secs => {wait}), looks = looks + 1{also}
    WHERE {key} IN (
        SELECT {key} FROM {table} WHERE look_at <= clock_timestamp() {condition} ORDER BY look_at LIMIT $1
        FOR UPDATE SKIP LOCKED)
    RETURNING {columns}
"""
_WAIT_S = "least(3600, 2 ^ least(looks + 1, 12))"
#: Uses room_upgrades_open.
_TAKE_UPGRADES = _TAKE.format(
    table="room_upgrades", key="old_room_id", condition="AND NOT ended", columns="old_room_id",
    wait=f"greatest(40, {_WAIT_S})", also=", ended = created_at < clock_timestamp() - interval '1 day'",
)  # fmt: skip
#: Uses settings_to_copy_when.
_TAKE_SETTINGS = _TAKE.format(
    table="settings_to_copy", key="(user_id, new_room_id)", condition="", wait=_WAIT_S, also="",
    columns="""user_id, new_room_id, old_room_id, created_at < clock_timestamp() - interval '10 minutes' AS is_old,
        EXISTS (SELECT FROM rooms r JOIN memberships m USING (room_nid)
                WHERE r.room_id = new_room_id AND m.user_id = settings_to_copy.user_id AND m.membership = 'join')
        AS has_joined""",
).replace("SELECT (user_id, new_room_id)", "SELECT user_id, new_room_id")  # fmt: skip
#: Uses deactivations_when.
_TAKE_DEACTIVATIONS = _TAKE.format(
    table="deactivations", key="user_id", condition="", columns="user_id, erase", also="",
    wait=f"greatest(40, {_WAIT_S})",
)  # fmt: skip
#: Uses guest_removals_when.
_TAKE_GUEST_ROOMS = _TAKE.format(
    table="guest_removals", key="of_room_id", condition="", columns="of_room_id", also="",
    wait=f"greatest(10, {_WAIT_S})",
)  # fmt: skip
_SETTINGS_DONE = "DELETE FROM settings_to_copy WHERE user_id = $1 AND new_room_id = $2"


@dataclass(frozen=True, slots=True)
class SettingsToCopy:
    """has_joined: he is in the new room; is_old: he has had ten minutes for it."""

    user_id: UserId
    new_room_id: RoomId
    old_room_id: RoomId
    is_old: bool
    has_joined: bool


@dataclass(frozen=True, slots=True)
class Deactivation:
    """erase: whether the user's data go as well."""

    user_id: UserId
    erase: bool


async def take_upgrades(database: Database, limit: int) -> Sequence[RoomId]:
    """Return old rooms whose upgrade seems to be left alone."""
    return [row["old_room_id"] for row in await database.fetch(_TAKE_UPGRADES, limit)]


async def take_settings(database: Database, limit: int) -> Sequence[SettingsToCopy]:
    return [SettingsToCopy(**row) for row in await database.fetch(_TAKE_SETTINGS, limit)]


async def take_deactivations(database: Database, limit: int) -> Sequence[Deactivation]:
    return [Deactivation(**row) for row in await database.fetch(_TAKE_DEACTIVATIONS, limit)]


async def take_guest_rooms(database: Database, limit: int) -> Sequence[RoomId]:
    """Return rooms of which somebody must look whether guests have to leave."""
    return [row["of_room_id"] for row in await database.fetch(_TAKE_GUEST_ROOMS, limit)]


async def settings_done(database: Database, user_id: UserId, new_room_id: RoomId) -> None:
    """The settings were copied, or the user never came."""
    await database.execute(_SETTINGS_DONE, user_id, new_room_id)
