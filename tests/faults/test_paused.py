"""Processes that are paused for longer than their lease and resumed: fenced, they write nothing, and rejoin.

`tests/replication/test_rejoin.py` shows that each type rejoins. This checks the rows in PostgreSQL under load.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import quote

import pytest

from tests.faults.traffic import ObservedFleet, common_rooms, now
from tests.fix_patience import Patience
from tests.fleet.raw_http import call
from tests.rigs.waiting import until
from tests.room_checks import assert_fleet_rooms_agree

CLIENT = "/_matrix/client/v3"
_PAUSE_S = 5.0
_BY_WRITER = """
    SELECT 'events' AS what, count(*), max(position) FROM events WHERE writer = ANY ($1::bigint[])
    UNION ALL SELECT 'account_data', count(*), max(position) FROM account_data WHERE writer = ANY ($1::bigint[])
    UNION ALL SELECT 'receipts', count(*), max(position) FROM receipts WHERE writer = ANY ($1::bigint[])
"""
_FINAL = "SELECT stream, max(final_position) AS final FROM writers WHERE lease = ANY ($1::bigint[]) GROUP BY 1"


@contextmanager
def standing_still(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


async def test_resumed_process_writes_nothing_under_its_old_lease(observed: ObservedFleet, patience: Patience) -> None:
    names = ("event_persister-1", "client_api-1", "synchrotron-1")
    await observed.until_complete()
    traffic = await common_rooms(observed.fleet, "paused", users=4, rooms=4, pace_s=0.5)
    pids, before = observed.pids(), await observed.leases()
    old = [before[name] for name in names]
    async with traffic.running():
        await asyncio.sleep(1.0)
        with standing_still(*(pids[name] for name in names)):
            await asyncio.sleep(_PAUSE_S)

            async def are_fenced() -> dict[str, int] | None:
                rows = await observed.fetch(_FINAL, old)
                finals = {row["stream"]: row["final"] for row in rows}
                held = set(old) & set((await observed.leases()).values())
                return None if held or None in finals.values() else finals

            finals = await until(are_fenced)
            stored = {row["what"]: (row["count"], row["max"]) for row in await observed.fetch(_BY_WRITER, old)}
        woken_s = now()
        await asyncio.sleep(6.0)
    await traffic.check()
    assert traffic.record.failed_again(woken_s + patience(5.0)) == []
    after = {row["what"]: (row["count"], row["max"]) for row in await observed.fetch(_BY_WRITER, old)}
    assert after["events"] == stored["events"] and after["events"][0] > 0
    for stream in ("account_data", "receipts"):  # rows that another writer changed since belong to that one
        assert after[stream][0] <= stored[stream][0]
    for stream, (_, greatest) in after.items():
        assert (greatest or 0) <= finals[stream]
    await observed.until_complete()
    again = await observed.leases()
    assert all(again[name] > max(before.values()) for name in names)
    assert observed.pids() == pids
    await assert_fleet_rooms_agree(observed.fleet)


async def test_resumed_leader_no_longer_leads(observed: ObservedFleet) -> None:
    await observed.until_complete()
    leader = "SELECT process, lease, epoch FROM duties JOIN leases ON holder = lease WHERE duty = 'main'"
    [before] = await observed.fetch(leader)
    slots = "SELECT kind, slot, owner, epoch, next_owner FROM slots ORDER BY kind, slot"
    owned = await observed.fetch(slots)
    traffic = await common_rooms(observed.fleet, "led", users=2, rooms=2, pace_s=0.5)
    async with traffic.running():
        with standing_still(observed.pids()[before["process"]]):
            await asyncio.sleep(_PAUSE_S)
            [during] = await observed.fetch(leader)
            assert during["lease"] != before["lease"] and during["epoch"] > before["epoch"]
        await asyncio.sleep(2.0)
    assert await observed.fetch(leader) == [during]
    assert await observed.fetch(slots) == owned
    assert traffic.record.failures == []
    await traffic.check()
    await observed.until_complete()


@pytest.mark.parametrize(
    "seconds", [8.0, pytest.param(60.0, marks=pytest.mark.soak), pytest.param(600.0, marks=pytest.mark.soak)]
)
async def test_fleet_serves_without_main(observed: ObservedFleet, seconds: float) -> None:
    """main is never in the path of a message: with all mains paused the fleet serves as it stands."""
    await observed.until_complete()
    traffic = await common_rooms(observed.fleet, f"headless{seconds:.0f}", users=4, rooms=4, pace_s=1.0)
    pids, leases = observed.pids(), await observed.leases()
    async with traffic.running():
        with standing_still(pids["main-1"], pids["main-2"]):
            await asyncio.sleep(seconds)
        await asyncio.sleep(5.0)
    await traffic.check()
    assert traffic.record.failures == []
    await observed.until_complete()
    # A resumed main fenced no process. At most one main fenced the other.
    changed = {name for name, lease in (await observed.leases()).items() if lease != leases[name]}
    assert changed <= {"main-1", "main-2"} and len(changed) < 2
    assert observed.pids() == pids


async def test_requests_to_a_paused_process_are_answered_by_its_successor(observed: ObservedFleet) -> None:
    """haproxy sent them before the pause. They do not wait for the paused process, which answers nothing."""
    await observed.until_complete()
    url = observed.fleet.client_url
    body = {"username": f"waiting-{now():.0f}", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
    token = call(url, "POST", f"{CLIENT}/register", body=body).json()["access_token"]
    rooms = [call(url, "POST", f"{CLIENT}/createRoom", token=token, body={}).json()["room_id"] for _ in range(8)]
    since = call(url, "GET", f"{CLIENT}/sync?timeout=0", token=token).json()["next_batch"]
    pids = observed.pids()

    def send(room_id: str) -> int:
        path = f"{CLIENT}/rooms/{quote(room_id, safe='')}/send/m.room.message/paused"
        return call(url, "PUT", path, token=token, body={"msgtype": "m.text", "body": "x"}).status

    def poll(number: int) -> int:
        return call(url, "GET", f"{CLIENT}/sync?timeout=1000&since={since}&n={number}", token=token).status

    began_s = now()
    with standing_still(pids["event_persister-1"], pids["synchrotron-1"]):
        calls = [asyncio.to_thread(send, room_id) for room_id in rooms] + [asyncio.to_thread(poll, 1)]
        statuses = await asyncio.gather(*calls)  # a call that takes 20 seconds fails
        assert now() - began_s < 15
        assert statuses == [200] * len(calls)
    await observed.until_complete()
