"""P6: a persist that is held for seconds, and an idle writer, delay no other messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest

from load.harness.clients import User
from shared.core.slots import slot_of
from tests.faults.servers import Servers
from tests.faults.traffic import Listener, ObservedFleet, Record, Sender, Traffic, new_room, new_users, now, p99
from tests.room_checks import assert_fleet_rooms_agree

#: Allows for chance in the slowest of some hundred deliveries on a busy machine.
_NOISE_S = 0.05
#: A persister with a hanging connection notices after 2.3 s, gives up its lease and soon serves under the next one.
_HANGS_FOR_S, _SERVES_AGAIN_S = 1.7, 8.0
_ROOM_LOCK = "SELECT FROM forward_extremities JOIN rooms r USING (room_nid) WHERE r.room_id = $1 FOR UPDATE"

Hold = Callable[[], AbstractAsyncContextManager[None]]


async def _rooms_by_owner(observed: ObservedFleet, members: list[User], wanted: dict[str, int]) -> dict[str, list[str]]:
    """Create rooms until each of these processes owns enough."""
    record = Record()
    rows = await observed.fetch("SELECT slot, process FROM slots JOIN leases ON lease = owner WHERE kind = 'rooms'")
    owner = {row["slot"]: row["process"] for row in rows}
    found: dict[str, list[str]] = {name: [] for name in wanted}
    while any(len(found[name]) < count for name, count in wanted.items()):
        room = await new_room(record, members[0], ())
        name = owner[slot_of(room)]
        if len(found.get(name, ())) < wanted.get(name, 0):
            for other in members[1:]:
                await record.ask(other, "join", "POST", f"/join/{room}", {})
            found[name].append(room)
    return found


@pytest.mark.parametrize("held_s", [4.0, pytest.param(30.0, marks=pytest.mark.soak)])
async def test_held_persist_delays_no_other_room(
    servers: Servers, observed: ObservedFleet, held_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    await observed.until_complete()
    members = await new_users(observed.fleet, f"slow{held_s:.0f}", 3)
    # The third persister is idle all the time.
    found = await _rooms_by_owner(observed, list(members), {"event_persister-1": 4, "event_persister-2": 1})
    *rooms, locked = found["event_persister-1"]
    [behind] = found["event_persister-2"]
    record = Record()
    senders = [Sender(user, rooms, record, 0.15) for user in members]
    listeners = [Listener(user.on_another_connection(), record, 20) for user in members]
    victim = Sender(members[0].on_another_connection(), [locked, behind], record, 1.0)
    traffic = Traffic(record, senders, listeners, [])

    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def row_lock() -> AsyncIterator[None]:
        conn = await asyncpg.connect(observed.dsn)
        try:
            async with conn.transaction():
                await conn.execute(_ROOM_LOCK, locked)
                waiting = asyncio.create_task(victim.send(locked, number := len(delays), f"locked {number}"))
                yield
                assert not waiting.done() or held_s > 4.5
        finally:
            await conn.close()
        await waiting

    @asynccontextmanager
    async def held_connection() -> AsyncIterator[None]:
        marker = f"held {len(delays)}"
        servers.postgres_proxy.hold(marker.encode())
        waiting = asyncio.create_task(victim.send(behind, len(delays), marker))
        yield
        assert not waiting.done()
        async with asyncio.timeout(_SERVES_AGAIN_S):
            await waiting
        servers.postgres_proxy.release()

    holds: dict[str, Callable[[], AbstractAsyncContextManager[None]]] = {
        "a row lock": row_lock,
        "a held connection": held_connection,
    }
    delays: dict[str, list[float]] = {}

    async def measure(name: str, hold: Hold, seconds: float) -> None:
        async with hold():
            await asyncio.sleep(0.3)
            since_s = now()
            await asyncio.sleep(seconds)
            until_s = now()
        await asyncio.sleep(0.5)
        delays[name] = traffic.delays(since_s, until_s, rooms)

    async with traffic.running():
        await asyncio.sleep(1.0)
        await measure("before", nothing, held_s)
        for name, hold in holds.items():
            await measure(name, hold, _HANGS_FOR_S if hold is held_connection else held_s)
        await measure("after", nothing, held_s)
    traffic.senders.append(victim)
    await until_all(traffic)
    await traffic.check()
    with capsys.disabled():
        print()
        for name, values in delays.items():
            print(
                f"{name:20} {len(values):5} deliveries, p50 {1000 * sorted(values)[len(values) // 2]:6.1f} ms,"
                f" p99 {1000 * p99(values):6.1f} ms, longest {1000 * max(values):6.1f} ms"
            )
    base = max(p99(delays["before"]), p99(delays["after"]))
    for name in holds:
        assert p99(delays[name]) < 1.2 * base + _NOISE_S, name
    await assert_fleet_rooms_agree(observed.fleet)


async def until_all(traffic: Traffic) -> None:
    """Fetch the victims' messages, which arrived while no listener waited for them."""
    for listener in traffic.listeners:
        await listener.sync(0)
