"""Work that was begun and must be finished, by whichever background worker looks first.

Each table of such work has the time of the next look at a row. A worker that claims rows moves that time forward: other
workers leave the rows alone, and if this one dies, another tries again 2, 4, 8 ... seconds later, an hour at most. An
upgrade that failed for a day is given up.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Database

_WAIT_S = "least(3600, 2 ^ least(looks + 1, 12))"


def _claim(table: str, key: str, columns: str, *, condition: str = "", min_wait_s: int = 0, change: str = "") -> str:
    """Return the statement that claims rows whose time has come, $1 at most, and returns these columns.

    key: the columns of the primary key.
    condition: a further condition.
    min_wait_s: the shortest time to the next look.
    change: further columns to set.
    """
    return f"""
        UPDATE {table} SET look_at = clock_timestamp() + make_interval(secs => greatest({min_wait_s}, {_WAIT_S})),
            looks = looks + 1{change}
        WHERE ({key}) IN (
            SELECT {key} FROM {table} WHERE look_at <= clock_timestamp() {condition} ORDER BY look_at LIMIT $1
            FOR UPDATE SKIP LOCKED)
        RETURNING {columns}
    """


#: Uses room_upgrades_open.
_CLAIM_UPGRADES = _claim(
    "room_upgrades",
    "old_room_id",
    "old_room_id",
    condition="AND NOT ended",
    min_wait_s=40,
    change=", ended = created_at < clock_timestamp() - interval '1 day'",
)
#: Uses settings_to_copy_when.
_CLAIM_SETTINGS = _claim(
    "settings_to_copy",
    "user_id, new_room_id",
    """user_id, new_room_id, old_room_id, created_at < clock_timestamp() - interval '10 minutes' AS is_old,
        EXISTS (SELECT FROM rooms r JOIN memberships m USING (room_nid)
                WHERE r.room_id = new_room_id AND m.user_id = settings_to_copy.user_id AND m.membership = 'join')
        AS has_joined""",
)
#: Uses deactivations_when.
_CLAIM_DEACTIVATIONS = _claim("deactivations", "user_id", "user_id, erase", min_wait_s=40)
#: Uses profile_changes_when.
_CLAIM_PROFILE_CHANGES = _claim(
    "profile_changes",
    "user_id",
    "user_id, number, created_at < clock_timestamp() - interval '1 day' AS is_old",
    min_wait_s=10,
)
#: Uses guest_removals_when.
_CLAIM_GUEST_REMOVALS = _claim("guest_removals", "of_room_id", "of_room_id", min_wait_s=10)
#: Small tables are read whole.
_OVERDUE = " UNION ALL ".join(
    f"SELECT '{table}' AS work, count(*) AS rows FROM {table} WHERE looks > $1{condition}"
    for table, condition in {
        "room_upgrades": " AND NOT ended",
        "settings_to_copy": "",
        "guest_removals": "",
        "deactivations": "",
        "profile_changes": "",
    }.items()
)
_DELETE_SETTINGS = "DELETE FROM settings_to_copy WHERE user_id = $1 AND new_room_id = $2"


@dataclass(frozen=True, slots=True)
class SettingsToCopy:
    """A user's settings to copy to the room that replaces another.

    is_old: True if it was noted more than ten minutes ago.
    has_joined: True if the user is in the new room.
    """

    user_id: UserId
    new_room_id: RoomId
    old_room_id: RoomId
    is_old: bool
    has_joined: bool


@dataclass(frozen=True, slots=True)
class Deactivation:
    """erase: True if the user's data is to be deleted as well."""

    user_id: UserId
    erase: bool


@dataclass(frozen=True, slots=True)
class ProfileChange:
    """A profile change that may not be in all rooms. is_old: True after a day, when it is given up."""

    user_id: UserId
    number: int
    is_old: bool


async def claim_profile_changes(database: Database, limit: int) -> Sequence[ProfileChange]:
    """Claim profile changes to bring into the users' rooms."""
    return [ProfileChange(**row) for row in await database.fetch(_CLAIM_PROFILE_CHANGES, limit)]


async def claim_upgrades(database: Database, limit: int) -> Sequence[RoomId]:
    """Claim old rooms whose upgrade seems to be abandoned."""
    return [row["old_room_id"] for row in await database.fetch(_CLAIM_UPGRADES, limit)]


async def claim_settings(database: Database, limit: int) -> Sequence[SettingsToCopy]:
    """Claim settings to copy."""
    return [SettingsToCopy(**row) for row in await database.fetch(_CLAIM_SETTINGS, limit)]


async def claim_deactivations(database: Database, limit: int) -> Sequence[Deactivation]:
    """Claim accounts to clear up."""
    return [Deactivation(**row) for row in await database.fetch(_CLAIM_DEACTIVATIONS, limit)]


async def claim_guest_removals(database: Database, limit: int) -> Sequence[RoomId]:
    """Claim rooms that guests may have to leave."""
    return [row["of_room_id"] for row in await database.fetch(_CLAIM_GUEST_REMOVALS, limit)]


async def delete_settings_to_copy(database: Database, user_id: UserId, new_room_id: RoomId) -> None:
    """Finish the copy of settings, or give it up because the user never joined."""
    await database.execute(_DELETE_SETTINGS, user_id, new_room_id)


async def count_overdue(database: Database, looks: int) -> dict[str, int]:
    """Return kind of work -> number of pieces that are unfinished after more than so many looks."""
    return {row["work"]: row["rows"] for row in await database.fetch(_OVERDUE, looks)}
