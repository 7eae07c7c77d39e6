"""Devices of local users. They begin and end with sessions: see `tokens.py`."""

from dataclasses import dataclass

from shared.core.identifiers import UserId
from shared.storage.engine.pool import Database

# All use the primary key of devices.
_COLUMNS = "SELECT device_id, display_name, last_seen_ms, last_seen_ip FROM devices"
_LIST = f"{_COLUMNS} WHERE user_id = $1 ORDER BY device_id"
_GET = f"{_COLUMNS} WHERE user_id = $1 AND device_id = $2"


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
