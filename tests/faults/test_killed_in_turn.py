"""P2: no process must live. Each type is killed in turn under mixed load, then Redis, haproxy and PostgreSQL.

A client that retries once sees no error from 5 s after each kill, and the fleet recovers by itself.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from urllib.parse import quote

import pytest

from tests.faults.servers import Servers
from tests.faults.traffic import CLIENT, ObservedFleet, Record, Traffic, common_rooms, new_room, new_users, now
from tests.fix_patience import Patience
from tests.fleet.raw_http import Answer, call
from tests.room_checks import assert_fleet_rooms_agree

_OUTAGE_LIMIT_S = 5.0
_CALM_S = 1.5  # from the end of the outage to the next kill: no request may fail twice

Kill = Callable[[], Awaitable[object]]


async def _one_after_another(traffic: Traffic, kills: dict[str, Kill], patience: Patience) -> dict[str, list[object]]:
    """Return the failures of retries from 5 s after each kill, by the killed process."""
    noticed: dict[str, list[object]] = {}
    for name, kill in kills.items():
        await kill()
        killed_s = now()
        await asyncio.sleep(_OUTAGE_LIMIT_S + _CALM_S)
        noticed[name] = list(traffic.record.failed_again(killed_s + patience(_OUTAGE_LIMIT_S)))
    return {name: failures for name, failures in noticed.items() if failures}


async def test_retry_succeeds_five_seconds_after_kill_of_each_process_type(
    servers: Servers, observed: ObservedFleet, capsys: pytest.CaptureFixture[str], patience: Patience
) -> None:
    def with_signal(number: int, *names: str) -> Kill:
        async def kill() -> None:
            for name in names:
                observed.fleet.kill(name, number)

        return kill

    async def redis() -> None:
        await asyncio.to_thread(servers.redis.away, 1.0)

    kills: dict[str, Kill] = {
        "persister": with_signal(signal.SIGKILL, "event_persister-1"),
        "synchrotron": with_signal(signal.SIGKILL, "synchrotron-1"),
        "client_api": with_signal(signal.SIGKILL, "client_api-1"),
        "both mains": with_signal(signal.SIGKILL, "main-1", "main-2"),
        "others": with_signal(signal.SIGKILL, "federation_reader-1", "federation_sender-1", "background-1", "media-1"),
        "asked to stop": with_signal(signal.SIGTERM, "event_persister-2", "synchrotron-2", "client_api-2"),
        "redis": redis,
        "haproxy": with_signal(signal.SIGKILL, "haproxy"),
    }
    traffic = await common_rooms(observed.fleet, "killed", users=4, rooms=6, pace_s=1.0)
    before = observed.pids()
    async with traffic.running():
        noticed = await _one_after_another(traffic, kills, patience)
    await traffic.check()
    with capsys.disabled():
        longest = {name: round(traffic.record.longest(name), 2) for name in traffic.record.durations}
        print(
            f"\n{len(traffic.record.sent_at)} events; longest in s {longest};"
            f" {len(traffic.record.failures)} failures, latest attempt"
            f" {max((each.attempt for each in traffic.record.failures), default=0)}"
        )
    assert noticed == {}
    await observed.until_complete()
    unhurt = {"event_persister-3", "supervisor"}
    after = observed.pids()
    assert {name for name in before if before[name] == after.get(name)} == unhurt
    await assert_fleet_rooms_agree(observed.fleet)


async def test_postgres_restart_under_load_loses_nothing(
    servers: Servers, observed: ObservedFleet, patience: Patience
) -> None:
    """Writes wait or get 503 with Retry-After. Nothing acknowledged is lost, and nothing is stored twice."""
    answers: list[Answer] = []
    traffic = await common_rooms(observed.fleet, "restarted", users=3, rooms=4, pace_s=1.0)
    [prober] = await new_users(observed.fleet, "prober", 1)
    room = await new_room(Record(), prober)
    token = prober.connection._head.partition("Bearer ")[2].partition("\r\n")[0]

    def probe(until_s: float) -> None:
        while time.monotonic() < until_s:
            target = f"{CLIENT}/rooms/{quote(room)}/send/m.room.message/p{len(answers)}"
            answers.append(
                call(observed.fleet.client_url, "PUT", target, token=token, body={"msgtype": "m.text", "body": "probe"})
            )

    async with traffic.running():
        await asyncio.sleep(1.0)
        probing = asyncio.create_task(asyncio.to_thread(probe, time.monotonic() + 5.0))
        await asyncio.to_thread(servers.postgres.away, 3.0, signal.SIGQUIT)
        back_s = now()
        await probing
        await asyncio.sleep(max(0.0, back_s + _OUTAGE_LIMIT_S + _CALM_S - now()))
    await traffic.check()
    assert traffic.record.failed_again(back_s + patience(_OUTAGE_LIMIT_S)) == []
    await observed.until_complete()
    refused = [answer for answer in answers if answer.status != 200]
    assert refused and all(answer.status == 503 and answer.header("retry-after") for answer in refused), refused
    await assert_fleet_rooms_agree(observed.fleet)


@pytest.mark.parametrize("seconds", [2.0, 3.5, pytest.param(10.0, marks=pytest.mark.soak)])
async def test_leases_survive_postgres_outages(servers: Servers, observed: ObservedFleet, seconds: float) -> None:
    """No process is fenced for an outage, however long or short (evidence, test 7).

    A process's own pauses between two heartbeats add to a short outage. Only a background worker may rejoin: it writes
    every second, and the outage may leave the outcome of a write unknown.
    """
    await observed.until_complete()
    before, owners = await observed.leases(), await observed.owners()
    await asyncio.to_thread(servers.postgres.away, seconds, signal.SIGINT)
    await asyncio.sleep(4.5)
    changed = {name for name, lease in (await observed.leases()).items() if lease != before[name]}
    assert changed <= {"background-1"}
    assert await observed.owners() == owners
