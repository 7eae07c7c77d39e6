"""The tests of the protocol's evidence that are not elsewhere, see README.md in this folder."""

import asyncio
import itertools
import os
import signal
import time
from urllib.parse import quote

import asyncpg

from shared.core.slots import slot_of
from shared.storage.fleet.leases import fence
from tests.faults.redis_proxy import FINE, Weather
from tests.faults.servers import Servers
from tests.faults.traffic import (
    Listener,
    ObservedFleet,
    Record,
    Sender,
    Traffic,
    common_rooms,
    new_room,
    new_users,
    until,
)
from tests.fix_servers import TestDatabase
from tests.replication.test_leases import WRITE, Put, join
from tests.room_checks import assert_fleet_rooms_agree

_ROOM_LOCK = "SELECT FROM forward_extremities JOIN rooms r USING (room_nid) WHERE r.room_id = $1 FOR UPDATE"


async def test_fencing_worker_with_endless_statements_takes_a_second(postgres: TestDatabase) -> None:
    """Test 2: eight connections have overlapping statements and no heartbeat. Fencing takes at most a second."""
    judge = await asyncpg.connect(postgres.dsn)
    lease = await join(judge)
    numbers = itertools.count()
    fenced = 0

    async def write_without_end() -> None:
        nonlocal fenced
        conn = await asyncpg.connect(postgres.dsn)
        while await conn.fetchval(WRITE.sql, lease, *WRITE.values(Put(type=f"t{next(numbers)}", slow_s=0.25))):
            pass
        fenced += 1
        await conn.close()

    writers = []
    for _ in range(8):
        writers.append(asyncio.create_task(write_without_end()))
        await asyncio.sleep(0.03)
    await asyncio.sleep(0.5)
    began_s = time.monotonic()
    await fence(judge, lease)
    took_s = time.monotonic() - began_s
    stored = await judge.fetchval("SELECT count(*) FROM account_data")
    greatest = await judge.fetchval("SELECT max(position) FROM account_data")
    final = "SELECT final_position FROM writers WHERE lease = $1 AND stream = 'account_data'"
    assert await judge.fetchval(final, lease) == greatest
    await asyncio.gather(*writers)
    assert fenced == 8
    assert await judge.fetchval("SELECT count(*) FROM account_data") == stored > 8
    assert took_s < 5.0, "writers that never pause do not keep the judge waiting"
    await judge.close()


async def test_fleet_recovers_from_kill_between_position_and_commit(observed: ObservedFleet) -> None:
    """Test 3, the part without a fault point: the statement has begun, and waits in Postgres."""
    await observed.until_complete()
    traffic = await common_rooms(observed.fleet, "midway", users=2, rooms=1, pace_s=0.2)
    [room] = traffic.rooms
    owner = "SELECT process FROM slots JOIN leases ON lease = owner WHERE kind = 'rooms' AND slot = $1"
    name = (await observed.fetch(owner, slot_of(room)))[0]["process"]
    pid = observed.pids()[name]
    waiting = """
        SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND application_name LIKE 'skep-writer-%'
    """
    conn = await asyncpg.connect(observed.dsn)
    async with traffic.running():
        await asyncio.sleep(1.0)
        async with conn.transaction():
            await conn.execute(_ROOM_LOCK, room)
            while not await observed.fetch(waiting):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.005)
            os.kill(pid, signal.SIGKILL)
            assert await until(lambda: observed.pids().get(name, pid) != pid, 10.0)
        await asyncio.sleep(2.0)
    await conn.close()
    await traffic.check()
    await observed.until_complete()
    await assert_fleet_rooms_agree(observed.fleet)


async def test_late_reader_sees_room_in_order_after_two_moves_of_its_slot(
    servers: Servers, observed: ObservedFleet
) -> None:
    """Test 8: a late reader sees a room's messages in order, though its writers never wrote there at the same time."""
    await observed.until_complete()
    record = Record()
    [user, reader] = await new_users(observed.fleet, "twice", 2)
    room = await new_room(record, user, [reader])
    sender = Sender(user, [room], record, 1.0)
    listeners = [Listener(reader.on_another_connection(), record, limit) for limit in (1, 20)]
    traffic = Traffic(record, [sender], listeners, [])
    for listener in listeners:
        await listener.sync(0)
    owner = "SELECT process FROM slots JOIN leases ON lease = owner WHERE kind = 'rooms' AND slot = $1"
    first = (await observed.fetch(owner, slot_of(room)))[0]["process"]
    second, third = sorted({"event_persister-1", "event_persister-2", "event_persister-3"} - {first})
    # The frames of each writer may arrive long after those of the next one.
    servers.redis_proxy.weather = Weather(late=0.5, longest_s=2.0)
    try:
        for number, (by_way_of, to) in enumerate(((second, third), (first, second), (third, first))):
            await sender.send(room, 2 * number)
            for process in (by_way_of, to):
                done = await asyncio.to_thread(observed.fleet.skep, "move", "rooms", quote(room, safe="!"), process)
                assert done.returncode == 0, done
            await sender.send(room, 2 * number + 1)
            for listener in listeners:
                await listener.sync(500)
    finally:
        servers.redis_proxy.weather = FINE
    for listener in listeners:
        async with asyncio.timeout(5.0):
            while len(listener.seen[room]) < 6:
                await listener.sync(1000)
    await traffic.check()
    writers = "SELECT count(DISTINCT writer) AS n FROM events JOIN rooms USING (room_nid) WHERE room_id = $1"
    assert (await observed.fetch(writers, room))[0]["n"] == 3
    done = await asyncio.to_thread(observed.fleet.skep, "rebalance")
    assert done.returncode == 0, done
    await assert_fleet_rooms_agree(observed.fleet)
