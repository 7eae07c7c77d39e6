"""The state of the fleet for `skep status`: processes, slots, and the positions of streams and writers."""

from dataclasses import dataclass

from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import ProcessRow, get_processes
from shared.storage.fleet.slots import SlotRow, get_slots

_LEADER = "SELECT holder FROM duties WHERE duty = 'main'"
_SEQUENCE = "SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {}"


@dataclass(frozen=True, slots=True)
class FleetStatus:
    """sequences: stream -> last position that Postgres gave. leader: lease of the leading main."""

    processes: list[ProcessRow]
    slots: list[SlotRow]
    sequences: dict[str, int]
    leader: int | None


async def get_fleet_status(database: Database, sequences: dict[str, str]) -> FleetStatus:
    """Return the state of the fleet. sequences: stream -> name of its sequence."""
    processes = await get_processes(database)
    snapshot = await get_slots(database)
    last = {stream: await database.fetchval(_SEQUENCE.format(name)) for stream, name in sequences.items()}
    return FleetStatus(processes, list(snapshot.slots), last, await database.fetchval(_LEADER))
