"""Work that was begun and waits for others: its rows stay until their owners have done it."""

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry

from replication.calls.rooms import SET_MEMBER_PROFILE, MemberProfileAnswer, MemberProfileChange
from replication.calls.users import COPY_ROOM_SETTINGS, SettingsCopied
from shared.core.errors import Unavailable
from shared.core.identifiers import RoomId, UserId
from shared.http.internal_calls import EMPTY
from shared.metrics.background import BackgroundMetrics
from shared.runtime.tasks import TaskGroup
from shared.storage.accounts.profiles import note_profile_change
from shared.storage.engine.pool import Database, connector
from shared.storage.rooms.upgrades import remember_settings
from tests.fix_servers import TestDatabase
from tests.rigs.clock import MockClock
from tests.rigs.waiting import until
from workers.background.pending_work import PendingWork
from workers.background.watch import BackgroundWatch

_NOW = "UPDATE settings_to_copy SET look_at = now() - interval '1 second'"
_COUNT = "SELECT count(*) FROM settings_to_copy"


class _Owner:
    """Answers in place of the user's owner. names_successor: the old room has its tombstone."""

    def __init__(self) -> None:
        self.asked = 0
        self.names_successor = False

    async def ask(self, call: Any, key: str, body: Any) -> SettingsCopied:
        assert call is COPY_ROOM_SETTINGS and key == "@a:b"
        self.asked += 1
        return SettingsCopied(self.names_successor)


async def test_settings_wait_for_the_tombstone(postgres: TestDatabase) -> None:
    """A client that upgrades a room by itself makes the new room first."""
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    try:
        owner: Any = _Owner()
        job = PendingWork(database, owner, BackgroundMetrics(CollectorRegistry()))
        await remember_settings(database, UserId("@a:b"), RoomId("!old:b"), RoomId("!new:b"))
        await database.execute("INSERT INTO rooms VALUES (1, '!new:b', '12', '@x:b', false, 1)")
        await database.execute("INSERT INTO memberships VALUES (1, '@a:b', 'join', 1, '@a:b', 1, 1, 1, true)")
        for _ in range(2):
            await database.execute(_NOW)
            await job.once()
        assert (owner.asked, await database.fetchval(_COUNT)) == (2, 1)
        owner.names_successor = True
        await database.execute(_NOW)
        await job.once()
        assert (owner.asked, await database.fetchval(_COUNT)) == (3, 0)

        await remember_settings(database, UserId("@a:b"), RoomId("!old:b"), RoomId("!new:b"))
        owner.names_successor = False
        await database.execute("UPDATE settings_to_copy SET created_at = now() - interval '11 minutes'")
        await database.execute(_NOW)
        await job.once()
        assert await database.fetchval(_COUNT) == 0, "given up after ten minutes"
    finally:
        await database.close()


class _RoomOwners:
    """Owners of rooms, some of which cannot be reached."""

    def __init__(self) -> None:
        self.unreachable: set[str] = set()
        self.updated: list[str] = []

    async def ask(self, call: Any, key: str, body: Any) -> MemberProfileAnswer:
        assert call is SET_MEMBER_PROFILE and body == MemberProfileChange(UserId("@a:b"))
        if key in self.unreachable:
            raise Unavailable("not now")
        self.updated.append(key)
        return MemberProfileAnswer()


async def test_profile_change_is_brought_into_all_rooms(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    due = "UPDATE profile_changes SET look_at = now() - interval '1 second'"
    count = "SELECT count(*) FROM profile_changes"
    try:
        owners: Any = _RoomOwners()
        job = PendingWork(database, owners, BackgroundMetrics(CollectorRegistry()))
        for nid in range(3):
            await database.execute(f"INSERT INTO rooms VALUES ({nid}, '!{nid}:b', '12', '@x:b', false, 1)")
            membership = "leave" if nid == 2 else "join"
            await database.execute(
                f"INSERT INTO memberships VALUES ({nid}, '@a:b', '{membership}', 1, '@a:b', 1, 1, 1, true)"
            )
        await note_profile_change(database, UserId("@a:b"))
        await job.once()
        assert owners.updated == [], "the process that took the change has ten seconds"
        owners.unreachable = {"!1:b"}
        await database.execute(due)
        await job.once()
        assert (owners.updated, await database.fetchval(count)) == (["!0:b"], 1)
        owners.unreachable = set()
        await database.execute(due)
        await job.once()
        assert (set(owners.updated), await database.fetchval(count)) == ({"!0:b", "!1:b"}, 0)
        owners.unreachable = {"!1:b"}
        await note_profile_change(database, UserId("@a:b"))
        await database.execute("UPDATE profile_changes SET created_at = now() - interval '25 hours'")
        await database.execute(due)
        await job.once()
        assert await database.fetchval(count) == 0, "given up after a day"
    finally:
        await database.close()


class _FailingOwner:
    """Fails for one user by a bug."""

    def __init__(self) -> None:
        self.done: list[str] = []

    async def ask(self, call: Any, key: str, body: Any) -> SettingsCopied:
        if key == "@bad:b":
            raise KeyError("a bug")
        self.done.append(key)
        return SettingsCopied(True)


async def test_piece_of_work_that_meets_a_bug_stops_no_other(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    registry = CollectorRegistry()
    try:
        owner: Any = _FailingOwner()
        job = PendingWork(database, owner, BackgroundMetrics(registry))
        await database.execute("INSERT INTO rooms VALUES (1, '!new:b', '12', '@x:b', false, 1)")
        for user in ("@bad:b", "@good:b"):
            await remember_settings(database, UserId(user), RoomId("!old:b"), RoomId("!new:b"))
            await database.execute("INSERT INTO memberships VALUES (1, $1, 'join', 1, $1, 1, 1, 1, true)", user)
        await database.execute(_NOW)
        assert await job.once() == 1
        assert owner.done == ["@good:b"]
        assert registry.get_sample_value("skep_background_failures_total", {"job": "pending work"}) == 1
        await database.execute("UPDATE settings_to_copy SET looks = 20")
        watch = BackgroundWatch(database, BackgroundMetrics(other := CollectorRegistry()), MockClock(0.0))
        await watch.measure()
        assert other.get_sample_value("skep_background_overdue", {"work": "settings_to_copy"}) == 1
    finally:
        await database.close()


class _SlowOwner:
    """Takes for ever for one user."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []

    async def ask(self, call: Any, key: str, body: Any) -> Any:
        self.begun.append(key)
        if key == "@slow:b":
            await asyncio.Event().wait()
        self.done.append(key)
        return SettingsCopied(True) if call is COPY_ROOM_SETTINGS else EMPTY


async def test_slow_piece_of_work_holds_up_no_other(postgres: TestDatabase) -> None:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=8)
    tasks = TaskGroup()
    try:
        owner: Any = _SlowOwner()
        await database.execute("INSERT INTO rooms VALUES (1, '!new:b', '12', '@x:b', false, 1)")
        await remember_settings(database, UserId("@slow:b"), RoomId("!old:b"), RoomId("!new:b"))
        await database.execute("INSERT INTO memberships VALUES (1, '@slow:b', 'join', 1, '@x:b', 1, 1, 1, true)")
        await database.execute(_NOW)
        for name, job in PendingWork(database, owner, BackgroundMetrics(CollectorRegistry())).jobs().items():
            tasks.forever(job, name)
        await until(lambda: owner.begun == ["@slow:b"])
        await database.execute(_NOW)  # the slow piece is due again: it is not begun twice
        await remember_settings(database, UserId("@quick:b"), RoomId("!old:b"), RoomId("!new:b"))
        await database.execute("INSERT INTO memberships VALUES (1, '@quick:b', 'join', 1, '@y:b', 1, 1, 1, true)")
        await database.execute("INSERT INTO deactivations VALUES ('@gone:b', false, now(), now())")
        await until(lambda: {"@quick:b", "@gone:b"} <= set(owner.done))
        assert owner.begun.count("@slow:b") == 1
    finally:
        await tasks.close()
        await database.close()
