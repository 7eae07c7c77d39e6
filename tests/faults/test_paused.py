"""Processes that stand still for longer than their lease, and go on: fenced, they write nothing more, and join anew.

`tests/replication/test_rejoin.py` shows that each type joins anew; this, what PostgreSQL holds of it under load.
"""

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.faults.traffic import WholeFleet, common_rooms, now
from tests.room_checks import assert_fleet_rooms_agree

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


async def test_who_slept_writes_nothing_under_his_old_lease(whole: WholeFleet) -> None:
    names = ("event_persister-1", "client_api-1", "synchrotron-1")
    await whole.whole()
    traffic = await common_rooms(whole.fleet, "paused", users=4, rooms=4, pace_s=0.5)
    pids, before = whole.pids(), await whole.leases()
    old = [before[name] for name in names]
    async with traffic.flowing():
        await asyncio.sleep(1.0)
        with standing_still(*(pids[name] for name in names)):
            await asyncio.sleep(_PAUSE_S)
            assert not set(old) & set((await whole.leases()).values())
            stored = {row["what"]: (row["count"], row["max"]) for row in await whole.fetch(_BY_WRITER, old)}
            finals = {row["stream"]: row["final"] for row in await whole.fetch(_FINAL, old)}
        woken_s = now()
        await asyncio.sleep(6.0)
    await traffic.check()
    assert traffic.record.failed_again(woken_s + 5.0) == []
    after = {row["what"]: (row["count"], row["max"]) for row in await whole.fetch(_BY_WRITER, old)}
    assert after["events"] == stored["events"] and after["events"][0] > 0
    for stream in ("account_data", "receipts"):  # rows that somebody changed since are his
        assert after[stream][0] <= stored[stream][0]
    for stream, (_, greatest) in after.items():
        assert (greatest or 0) <= finals[stream]
    await whole.whole()
    again = await whole.leases()
    assert all(again[name] > max(before.values()) for name in names)
    assert whole.pids() == pids
    await assert_fleet_rooms_agree(whole.fleet)


async def test_a_leader_that_slept_leads_no_more(whole: WholeFleet) -> None:
    await whole.whole()
    leader = "SELECT process, lease, epoch FROM duties JOIN leases ON holder = lease WHERE duty = 'main'"
    [before] = await whole.fetch(leader)
    slots = "SELECT kind, slot, owner, epoch, next_owner FROM slots ORDER BY kind, slot"
    owned = await whole.fetch(slots)
    traffic = await common_rooms(whole.fleet, "led", users=2, rooms=2, pace_s=0.5)
    async with traffic.flowing():
        with standing_still(whole.pids()[before["process"]]):
            await asyncio.sleep(_PAUSE_S)
            [during] = await whole.fetch(leader)
            assert during["lease"] != before["lease"] and during["epoch"] > before["epoch"]
        await asyncio.sleep(2.0)
    assert await whole.fetch(leader) == [during]
    assert await whole.fetch(slots) == owned
    assert traffic.record.failures == []
    await traffic.check()
    await whole.whole()


@pytest.mark.parametrize(
    "seconds", [8.0, pytest.param(60.0, marks=pytest.mark.soak), pytest.param(600.0, marks=pytest.mark.soak)]
)
async def test_nobody_misses_main(whole: WholeFleet, seconds: float) -> None:
    """main is never in the path of a message: with all of them stopped the fleet serves as it stands."""
    await whole.whole()
    traffic = await common_rooms(whole.fleet, f"headless{seconds:.0f}", users=4, rooms=4, pace_s=1.0)
    pids, leases = whole.pids(), await whole.leases()
    async with traffic.flowing():
        with standing_still(pids["main-1"], pids["main-2"]):
            await asyncio.sleep(seconds)
        await asyncio.sleep(5.0)
    await traffic.check()
    assert traffic.record.failures == []
    await whole.whole()
    # Nobody was judged by a main that woke up; at most one main ended the other.
    changed = {name for name, lease in (await whole.leases()).items() if lease != leases[name]}
    assert changed <= {"main-1", "main-2"} and len(changed) < 2
    assert whole.pids() == pids
