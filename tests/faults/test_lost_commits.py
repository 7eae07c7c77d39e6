"""A standby without the last commits is promoted: no position is given out again, and new events are delivered.

Architecture page, section 3, "A database that lost its last commits"; evidence 8 and its test 6.
"""

import asyncio
import dataclasses
import signal
import subprocess
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from deploy.local.servers.unprivileged import give_to
from replication.streams import streams_written_by
from shared.storage.engine.lost_commits import LEASE, LEASES_RAISED_BY, POSITIONS_RAISED_BY, UnsafeCommits
from shared.storage.fleet.leases import insert_lease, record_heartbeat
from tests.faults.servers import Server, Servers, running_servers
from tests.faults.traffic import ObservedFleet, common_rooms, now
from tests.fix_fleet import run_fleet
from tests.fix_servers import TestDatabase
from tests.room_checks import assert_fleet_rooms_agree

_NONE = dict.fromkeys(("federation_reader", "federation_sender", "background", "media"), 0)
_GREATEST = """
    SELECT (SELECT value FROM counters WHERE name = 'lease') AS lease, (SELECT last_value FROM stream_events) AS events,
           (SELECT last_value FROM stream_account_data) AS account_data,
           (SELECT last_value FROM stream_receipts) AS receipts
"""


@contextmanager
def standby_of(servers: Servers) -> Iterator[Server]:
    """Yield a standby, copied from the primary and not started. It exists until the block ends."""
    primary = servers.postgres.program
    programs = Path(primary.argv[0]).parent
    data = primary.directory.with_name(primary.directory.name + "-standby")
    give_to(primary.user, data)
    copy: list[str | Path] = [programs / "pg_basebackup", "-h", servers.database.hosts[0], "-U", "skep", "-D", data]
    copy += ["-R", "-c", "fast"]
    user = primary.user
    identity: dict[str, Any] = {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": ()}
    made = subprocess.run(
        copy, cwd=primary.directory, env=dict(primary.environment), capture_output=True, check=False, **identity
    )
    assert made.returncode == 0, made.stderr.decode()
    argv = [str(data) if part == str(primary.directory) else part for part in primary.argv]
    argv[argv.index("port=5432")] = "port=5433"
    ready = dataclasses.replace(primary, argv=tuple(argv), directory=data, is_ready=lambda pid: _accepts(data, pid))
    standby = Server(ready, servers.directory / "standby.log")
    try:
        yield standby
    finally:
        standby.stop(signal.SIGQUIT)


def _accepts(data: Path, pid: int) -> bool:
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() in ("standby", "ready")


async def test_promoted_standby_without_last_commits() -> None:
    with running_servers() as servers:
        counts = {"event_persister": 2, "synchrotron": 1, **_NONE}
        for fleet in run_fleet({**servers.settings(), "fleet": counts}):
            await _fail_over(servers, ObservedFleet(fleet, servers.dsn))


def _standby_dsn(servers: Servers) -> str:
    return servers.dsn.replace("5432", "5433")


async def _fail_over(servers: Servers, before: ObservedFleet) -> None:
    traffic = await common_rooms(before.fleet, "standby", users=2, rooms=3, pace_s=0.5, limits=(10, 2))
    await before.until_complete()
    with standby_of(servers) as standby:
        # The standby lacks the events sent now: all readers get them, and they are lost.
        async with traffic.running():
            await asyncio.sleep(3.0)
        lost = [event for room in traffic.rooms for sent in traffic.acknowledged(room) for event in sent]
        [greatest] = await before.fetch(_GREATEST)
        old_pids = before.pids()
        await asyncio.to_thread(servers.postgres.stop, signal.SIGQUIT)
        await asyncio.to_thread(standby.start)
        conn = await asyncpg.connect(_standby_dsn(servers))
        [without_the_last] = await conn.fetch(_GREATEST)
        assert without_the_last["events"] < greatest["events"]
        await conn.fetchval("SELECT pg_promote(true, 20)")
        servers.postgres_proxy.redirect(f"{servers.database.hosts[0]}/.s.PGSQL.5433")
        servers.postgres_proxy.cut_all()
        promoted_s = now()
        after = ObservedFleet(before.fleet, _standby_dsn(servers))
        await after.until_complete()
        for sender in traffic.senders:
            sender.acknowledged.clear()
        for listener in traffic.listeners:
            listener.seen = {room: [] for room in listener.seen}
        for active_user in traffic.active_users:
            active_user.receipts.clear()
            active_user.account_data.clear()
        # The clients continue with their tokens.
        traffic.listeners = [dataclasses.replace(each) for each in traffic.listeners]
        for sender in traffic.senders:
            for room in sender.rooms:
                await sender.send(room, 10_000)
        async with traffic.running():
            await asyncio.sleep(3.0)
        await traffic.check()
        assert traffic.record.failed_again(promoted_s + 8.0) == []
        stored = {row["event_id"] for row in await after.fetch("SELECT event_id FROM events")}
        assert not stored & set(lost) and len(lost) > 20
        [row] = await after.fetch(
            "SELECT min(position) AS least, min(writer) AS writer FROM events WHERE position > $1", greatest["events"]
        )
        assert row["least"] >= greatest["events"] + POSITIONS_RAISED_BY - 1_000 and row["writer"] > greatest["lease"]
        # No lease number is reused, and no position that a reader had passed.
        assert (
            await after.fetch(
                "SELECT position FROM events WHERE writer > $1 AND position <= $2",
                greatest["lease"],
                greatest["events"],
            )
            == []
        )
        assert after.pids() == old_pids
        await assert_fleet_rooms_agree(after.fleet)
        await conn.close()
        before.fleet.stop()  # before the standby stops, to end the leases


def _insert(conn: asyncpg.Connection, **ever_seen: int) -> Coroutine[Any, Any, int]:
    sequences = {s.name: s.sequence for s in streams_written_by("client_api") if s.catch_up}
    return insert_lease(
        conn,
        process="p",
        type_="client_api",
        host="h",
        pid=1,
        address="a:1",
        version="0",
        sequences=sequences,
        ever_seen=ever_seen,
    )


async def test_join_raises_sequences_above_positions_seen(postgres: TestDatabase) -> None:
    conn = await asyncpg.connect(postgres.dsn)
    first = await _insert(conn)
    assert await _insert(conn, **{LEASE: first, "events": 0}) == first + 1
    await conn.fetchval("SELECT setval('stream_events', 50)")
    # The process saw more than there is.
    assert await _insert(conn, **{LEASE: 40, "events": 70}) == 40 + LEASES_RAISED_BY + 1
    assert await conn.fetchval("SELECT nextval('stream_events')") == 70 + POSITIONS_RAISED_BY + 1
    # The process saw at most what there is.
    [row] = await conn.fetch(_GREATEST)
    assert await _insert(conn, **{LEASE: row["lease"], "events": row["events"]}) == row["lease"] + 1
    assert await conn.fetchval("SELECT nextval('stream_events')") == row["events"] + 1
    assert await conn.fetchval("SELECT nextval('stream_receipts')") == 1
    await conn.close()


async def test_lease_of_other_timeline_is_void_and_next_join_raises_sequences(postgres: TestDatabase) -> None:
    conn = await asyncpg.connect(postgres.dsn)
    lease = await _insert(conn)
    assert (await record_heartbeat(conn, lease, ready=True, draining=False, positions={})).alive
    await conn.execute("UPDATE leases SET timeline = 'FFFFFFFF'")
    assert not (await record_heartbeat(conn, lease, ready=True, draining=False, positions={})).alive
    await conn.execute("UPDATE counters SET value = 4294967295 WHERE name = 'timeline'")
    assert await _insert(conn) == lease + LEASES_RAISED_BY + 1
    for stream in ("events", "receipts", "account_data", "sessions"):
        assert await conn.fetchval(f"SELECT nextval('stream_{stream}')") > POSITIONS_RAISED_BY
    assert await _insert(conn) == lease + LEASES_RAISED_BY + 2
    await conn.close()


async def test_join_is_refused_without_synchronous_commits(postgres: TestDatabase) -> None:
    conn = await asyncpg.connect(postgres.dsn, server_settings={"synchronous_commit": "off"})
    with pytest.raises(UnsafeCommits):
        await _insert(conn)
    assert await conn.fetchval("SELECT count(*) FROM leases") == 0
    await conn.close()
