"""P4: messages are lost, doubled, late and out of order, and Redis is flushed and restarted. Clients miss nothing.

Every client sees every event once and in order, no delivery stalls for over 3 s, receipts and account data converge.
"""

import asyncio

import pytest

from tests.faults.conftest import SEED
from tests.faults.redis_proxy import FINE, Weather
from tests.faults.servers import Servers
from tests.faults.traffic import ObservedFleet, common_rooms, p99, until
from tests.fix_patience import Patience
from tests.room_checks import assert_fleet_rooms_agree

_STALL_S = 3.0
_STORM = Weather(lose=0.05, double=0.03, late=0.05, longest_s=2.0)


@pytest.mark.parametrize(
    ("duration_s", "restarts"), [(14.0, 3), pytest.param(600.0, 10, marks=pytest.mark.soak)], ids=["short", "soak"]
)
async def test_clients_miss_nothing_over_lossy_redis(
    servers: Servers,
    observed: ObservedFleet,
    duration_s: float,
    restarts: int,
    capsys: pytest.CaptureFixture[str],
    patience: Patience,
) -> None:
    connections = servers.redis_proxy.open
    traffic = await common_rooms(observed.fleet, f"storm{duration_s:.0f}", users=4, rooms=4, pace_s=1.0)
    async with traffic.running():
        servers.redis_proxy.weather = _STORM
        for turn in range(restarts):
            await asyncio.sleep(duration_s / restarts / 2)
            # It is away for longer than a tick, or back before any process notices.
            await asyncio.to_thread(servers.redis.away, 2.0 if turn % 2 else 0.0)
            await asyncio.sleep(duration_s / restarts / 2)
            servers.redis_proxy.cut()
        servers.redis_proxy.weather = FINE
        # No process gave up on Redis for good. Everything would be right then too, only a second later.
        assert await until(lambda: servers.redis_proxy.open == connections, 5.0)
    await traffic.check()
    with capsys.disabled():
        delays = traffic.delays()
        print(
            f"\n{len(traffic.record.sent_at)} events, {len(delays)} deliveries, seed {SEED},"
            f" {servers.redis_proxy.counts}: p50 {1000 * sorted(delays)[len(delays) // 2]:.0f} ms,"
            f" p99 {1000 * p99(delays):.0f} ms, longest {1000 * max(delays):.0f} ms,"
            f" {sum(each.gaps for each in traffic.listeners)} gaps paged in"
        )
    assert traffic.stalls(patience(_STALL_S)) == []
    assert not traffic.record.failures, traffic.record.failures[:5]
    assert servers.redis_proxy.counts["lost"] > 10 and servers.redis_proxy.counts["late"] > 10
    await assert_fleet_rooms_agree(observed.fleet)


async def test_lost_last_frame_is_repaired(servers: Servers, observed: ObservedFleet, patience: Patience) -> None:
    """No later frame shows the gap, with ticks and with lost ticks (evidence, test 5)."""
    traffic = await common_rooms(observed.fleet, "silence", users=2, rooms=1, pace_s=1.0)
    traffic.active_users.clear()
    [room] = traffic.rooms
    for listener in traffic.listeners:
        await listener.sync(0)
    for number, lost in enumerate(
        (lambda channel, _message: channel != "ticks", lambda _channel, _message: True), start=1
    ):
        servers.redis_proxy.weather = Weather(lost=lost)
        try:
            event = await traffic.senders[0].send(room, number)
            async with asyncio.timeout(patience(_STALL_S + 1)):
                while not all(event in each.arrived_at for each in traffic.listeners):
                    await asyncio.gather(*(each.sync(5000) for each in traffic.listeners))
        finally:
            servers.redis_proxy.weather = FINE
    await traffic.check()
    assert traffic.stalls(patience(_STALL_S)) == []


async def test_broken_database_connections_lose_nothing(
    servers: Servers, observed: ObservedFleet, patience: Patience
) -> None:
    """All connections to PostgreSQL break again and again, and it is slow. Nothing is lost or doubled."""
    traffic = await common_rooms(observed.fleet, "cut", users=3, rooms=2, pace_s=0.5)
    async with traffic.running():
        servers.postgres_proxy.delay_s = 0.01
        for _ in range(2):
            await asyncio.sleep(1.0)
            servers.postgres_proxy.cut_all()
            await asyncio.sleep(3.0)
        servers.postgres_proxy.delay_s = 0.0
    await traffic.check()
    assert traffic.record.longest("send") < patience(8.0)
    await assert_fleet_rooms_agree(observed.fleet)
