"""Claims of pending work: one process at a time, and again after a while if that process died."""

import asyncio

from shared.core.identifiers import RoomId, UserId
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.pending_work import (
    claim_deactivations,
    claim_guest_removals,
    claim_settings,
    claim_upgrades,
    delete_settings_to_copy,
)
from shared.storage.rooms.upgrades import remember_settings
from tests.fix_servers import TestDatabase

_UPGRADE = """
    INSERT INTO room_upgrades (old_room_id, new_room_id, new_version, upgrader, create_event_id, create_event, look_at,
                               ended, created_at)
    VALUES ($1, $1 || 'new', '12', '@a:b', '$c', '{}', now() - interval '1 minute', $2, now() - $3 * interval '1 hour')
"""
#: Ends all waits.
_LATER = (
    "UPDATE settings_to_copy SET look_at = now() - interval '1 hour'",
    "UPDATE room_upgrades SET look_at = now() - interval '1 hour'",
)


async def test_work_is_claimed_once_and_again_after_its_wait(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=4)
    try:
        for old, ended, hours in (("!open:b", False, 1), ("!ended:b", True, 1), ("!old:b", False, 30)):
            await database.execute(_UPGRADE, old, ended, hours)
        both = await asyncio.gather(*(claim_upgrades(database, 10) for _ in range(4)))
        assert sorted(room for rooms in both for room in rooms) == ["!old:b", "!open:b"]
        assert await claim_upgrades(database, 10) == []
        for statement in _LATER:
            await database.execute(statement)
        assert await claim_upgrades(database, 10) == ["!open:b"], "an upgrade that failed for a day is given up"

        await database.execute("INSERT INTO deactivations VALUES ('@a:b', true, now(), now())")
        [account] = await claim_deactivations(database, 10)
        assert (account.user_id, account.erase) == ("@a:b", True)
        assert not await claim_deactivations(database, 10)
        await database.execute("INSERT INTO guest_removals (of_room_id, look_at) VALUES ('!g:b', now())")
        assert await claim_guest_removals(database, 10) == ["!g:b"]
        assert not await claim_guest_removals(database, 10)
    finally:
        await database.close()


async def test_settings_wait_for_the_join(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    try:
        await remember_settings(database, UserId("@a:b"), RoomId("!old:b"), RoomId("!new:b"))
        assert not await claim_settings(database, 10), "claimed before the join can have arrived"
        for has_joined in (False, True):
            await database.execute(_LATER[0])
            [found] = await claim_settings(database, 10)
            assert (found.user_id, found.old_room_id, found.new_room_id) == ("@a:b", "!old:b", "!new:b")
            assert (found.has_joined, found.is_old) == (has_joined, False)
            await database.execute(
                "INSERT INTO rooms VALUES (1, '!new:b', '12', '@x:b', false, 1) ON CONFLICT DO NOTHING"
            )
            await database.execute(
                """INSERT INTO memberships VALUES (1, '@a:b', 'join', 1, '@a:b', 1, 1, 1, true)
                   ON CONFLICT DO NOTHING"""
            )
        await database.execute("UPDATE settings_to_copy SET created_at = now() - interval '11 minutes'")
        await database.execute(_LATER[0])
        [found] = await claim_settings(database, 10)
        assert found.is_old
        await delete_settings_to_copy(database, UserId("@a:b"), RoomId("!new:b"))
        await database.execute(_LATER[0])
        assert not await claim_settings(database, 10)
    finally:
        await database.close()
