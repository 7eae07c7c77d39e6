"""P6: one persist that is held for seconds, and a writer that has nothing to say, delay nobody else's messages."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest

from load.harness.clients import User
from shared.core.slots import slot_of
from tests.faults.servers import Servers
from tests.faults.traffic import Listener, Record, Talker, Traffic, WholeFleet, new_room, now, p99, people
from tests.room_checks import assert_fleet_rooms_agree

#: What chance does to the slowest of some hundred deliveries on a busy machine.
_NOISE_S = 0.05
#: A persister whose connection hangs notices after 2.3 s, gives up its lease and serves again within the next.
_HANGS_FOR_S, _SERVES_AGAIN_S = 1.7, 8.0
_ROOM_LOCK = "SELECT FROM forward_extremities JOIN rooms r USING (room_nid) WHERE r.room_id = $1 FOR UPDATE"

Hold = Callable[[], AbstractAsyncContextManager[None]]


async def _rooms_by_owner(whole: WholeFleet, members: list[User], wanted: dict[str, int]) -> dict[str, list[str]]:
    """Make rooms until each process that is named owns as many as are wanted."""
    record = Record()
    rows = await whole.fetch("SELECT slot, process FROM slots JOIN leases ON lease = owner WHERE kind = 'rooms'")
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
async def test_a_held_persist_delays_nobody_else(
    servers: Servers, whole: WholeFleet, held_s: float, capsys: pytest.CaptureFixture[str]
) -> None:
    await whole.whole()
    members = await people(whole.fleet, f"slow{held_s:.0f}", 3)
    # The third persister is an idle writer all the while.
    found = await _rooms_by_owner(whole, list(members), {"event_persister-1": 4, "event_persister-2": 1})
    *rooms, locked = found["event_persister-1"]
    [behind] = found["event_persister-2"]
    record = Record()
    talkers = [Talker(user, rooms, record, 0.15) for user in members]
    listeners = [Listener(user.on_another_connection(), record, 20) for user in members]
    victim = Talker(members[0].on_another_connection(), [locked, behind], record, 1.0)
    traffic = Traffic(record, talkers, listeners, [])

    @asynccontextmanager
    async def nothing() -> AsyncIterator[None]:
        yield

    @asynccontextmanager
    async def row_lock() -> AsyncIterator[None]:
        conn = await asyncpg.connect(whole.dsn)
        try:
            async with conn.transaction():
                await conn.execute(_ROOM_LOCK, locked)
                waiting = asyncio.create_task(victim.say(locked, number := len(delays), f"locked {number}"))
                yield
                assert not waiting.done() or held_s > 4.5
        finally:
            await conn.close()
        await waiting

    @asynccontextmanager
    async def held_connection() -> AsyncIterator[None]:
        marker = f"held {len(delays)}"
        servers.postgres_proxy.hold(marker.encode())
        waiting = asyncio.create_task(victim.say(behind, len(delays), marker))
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

    async with traffic.flowing():
        await asyncio.sleep(1.0)
        await measure("before", nothing, held_s)
        for name, hold in holds.items():
            await measure(name, hold, _HANGS_FOR_S if hold is held_connection else held_s)
        await measure("after", nothing, held_s)
    traffic.talkers.append(victim)
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
    await assert_fleet_rooms_agree(whole.fleet)


async def until_all(traffic: Traffic) -> None:
    """The victims' messages came while nobody waited for them: fetch them."""
    for listener in traffic.listeners:
        await listener.sync(0)
