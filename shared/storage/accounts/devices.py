"""Devices of local users. They begin and end with sessions: see `session_statements.py`."""

from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.encryption.device_lists import CHANGE_PART
from shared.storage.engine.fenced import fenced_statement
from shared.storage.engine.pool import Database
from shared.storage.engine.statements import parameters

# All use the primary key of devices.
_COLUMNS = "SELECT device_id, display_name, last_seen_ms, last_seen_ip FROM devices"
_LIST = f"{_COLUMNS} WHERE user_id = $1 ORDER BY device_id"
_GET = f"{_COLUMNS} WHERE user_id = $1 AND device_id = $2"


@parameters
class RenameDevice:
    user_id: UserId
    device_id: str
    display_name: str
    now_ms: int


_OF_DEVICE = "user_id = :user_id AND device_id = :device_id"
#: Others see the name beside the device's keys. Uses the primary key of devices.
RENAME_DEVICE = fenced_statement(
    "rename_device",
    RenameDevice,
    {
        "device": f"SELECT 1 FROM fence, devices WHERE {_OF_DEVICE}",
        "renamed": f"""
            UPDATE devices SET display_name = :display_name FROM fence
            WHERE {_OF_DEVICE} AND display_name IS DISTINCT FROM :display_name RETURNING 1
        """,
        "list_change": CHANGE_PART.format(source="renamed"),
    },
    "(SELECT count(*) FROM device) AS found, (SELECT position FROM list_change) AS list_position",
)


@dataclass(frozen=True, slots=True)
class Device:
    """A device. last_seen_ms, last_seen_ip: of its last request, up to half a minute late."""

    device_id: str
    display_name: str | None
    last_seen_ms: int | None
    last_seen_ip: str | None


async def list_devices(database: Database, user_id: UserId) -> list[Device]:
    """Return all devices of a user."""
    return [Device(**row) for row in await database.fetch(_LIST, user_id)]


async def get_device(database: Database, user_id: UserId, device_id: str) -> Device | None:
    """Return a device of a user."""
    row = await database.fetchrow(_GET, user_id, device_id)
    return Device(**row) if row is not None else None
