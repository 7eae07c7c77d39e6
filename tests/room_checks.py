"""Checks for the end of tests that write rooms: the stored rows must agree with the rooms' event graphs."""

from deploy.command.rooms.check import our_verify_keys
from shared.config.addresses import database_dsn
from shared.config.load import load_config
from shared.core.room_check import Finding
from shared.operations.check_rooms import check_room
from shared.storage.engine.pool import Database, connector
from shared.storage.rooms.for_check import get_room_ids
from tests.fix_fleet import RunningFleet

_MAX_ROOMS = 10_000


async def room_faults(
    dsn: str, *, server_name: str = "", verify_keys: dict[str, bytes] | None = None
) -> dict[str, list[Finding]]:
    """Return room id -> findings, without notes and without rooms that have none.

    server_name, verify_keys: set to check our own signatures too
    """
    database = Database(connector(dsn, pgbouncer=False), max_connections=1)
    try:
        found: dict[str, list[Finding]] = {}
        for room_id in await get_room_ids(database, "", _MAX_ROOMS):
            findings = await check_room(database, room_id, server_name=server_name, verify_keys=verify_keys)
            found[room_id] = [each for each in findings if not each.is_note]
        return {room_id: findings for room_id, findings in found.items() if findings}
    finally:
        await database.close()


async def assert_rooms_agree(dsn: str) -> None:
    """Fail with the findings unless all rooms of a database agree with their event graphs."""
    assert await room_faults(dsn) == {}


async def assert_fleet_rooms_agree(fleet: RunningFleet) -> None:
    """Fail with the findings unless all rooms of a running fleet agree with their event graphs and signatures."""
    config = load_config(fleet.config)
    dsn, keys = database_dsn(config.database), our_verify_keys(config)
    assert await room_faults(dsn, server_name=config.server_name, verify_keys=keys) == {}
