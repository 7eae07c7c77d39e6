"""P4: messages get lost, doubled, late and out of order, Redis is flushed and restarted: nobody misses anything.

Every client sees every event once and in order, no delivery stalls for over 3 s, receipts and account data converge.
"""

import asyncio

import pytest

from tests.faults.conftest import SEED
from tests.faults.redis_proxy import FINE, Weather
from tests.faults.servers import Servers
from tests.faults.traffic import WholeFleet, common_rooms, p99, until
from tests.room_checks import assert_fleet_rooms_agree

_STALL_S = 3.0
_STORM = Weather(lose=0.05, double=0.03, late=0.05, longest_s=2.0)


@pytest.mark.parametrize(
    ("duration_s", "restarts"), [(14.0, 3), pytest.param(600.0, 10, marks=pytest.mark.soak)], ids=["short", "soak"]
)
async def test_nobody_misses_anything(
    servers: Servers, whole: WholeFleet, duration_s: float, restarts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    connections = servers.redis_proxy.open
    traffic = await common_rooms(whole.fleet, f"storm{duration_s:.0f}", users=4, rooms=4, pace_s=1.0)
    async with traffic.flowing():
        servers.redis_proxy.weather = _STORM
        for turn in range(restarts):
            await asyncio.sleep(duration_s / restarts / 2)
            # Away for longer than a tick takes, or back before anybody notices that it was.
            await asyncio.to_thread(servers.redis.away, 2.0 if turn % 2 else 0.0)
            await asyncio.sleep(duration_s / restarts / 2)
            servers.redis_proxy.cut()
        servers.redis_proxy.weather = FINE
        # Nobody gave Redis up for good: everything would be as right, only a second later.
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
    assert traffic.stalls(_STALL_S) == []
    assert not traffic.record.failures, traffic.record.failures[:5]
    assert servers.redis_proxy.counts["lost"] > 10 and servers.redis_proxy.counts["late"] > 10
    await assert_fleet_rooms_agree(whole.fleet)


async def test_the_last_frame_is_lost_then_silence(servers: Servers, whole: WholeFleet) -> None:
    """Evidence, test 5: no later frame shows the gap. Once the ticks come through, once they are lost as well."""
    traffic = await common_rooms(whole.fleet, "silence", users=2, rooms=1, pace_s=1.0)
    traffic.fidgeters.clear()
    [room] = traffic.rooms
    for listener in traffic.listeners:
        await listener.sync(0)
    for number, lost in enumerate(
        (lambda channel, _message: channel != "ticks", lambda _channel, _message: True), start=1
    ):
        servers.redis_proxy.weather = Weather(lost=lost)
        try:
            event = await traffic.talkers[0].say(room, number)
            async with asyncio.timeout(_STALL_S + 1):
                while not all(event in each.arrived_at for each in traffic.listeners):
                    await asyncio.gather(*(each.sync(5000) for each in traffic.listeners))
        finally:
            servers.redis_proxy.weather = FINE
    await traffic.check()
    assert traffic.stalls(_STALL_S) == []


async def test_the_database_is_cut_off_for_a_moment(servers: Servers, whole: WholeFleet) -> None:
    """Every connection to PostgreSQL ends at once, again and again; it is slow besides. Nothing is lost or doubled."""
    traffic = await common_rooms(whole.fleet, "cut", users=3, rooms=2, pace_s=0.5)
    async with traffic.flowing():
        servers.postgres_proxy.delay_s = 0.01
        for _ in range(2):
            await asyncio.sleep(1.0)
            servers.postgres_proxy.cut_all()
            await asyncio.sleep(3.0)
        servers.postgres_proxy.delay_s = 0.0
    await traffic.check()
    assert traffic.record.longest("send") < 8.0
    await assert_fleet_rooms_agree(whole.fleet)
