"""Requests that keep a process's event loop busy: they cost no lease, and what ends two processes is set aside."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from replication.process.loop_guard import STUCK
from shared.runtime.fault_points import VARIABLE
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fix_servers import TestDatabase
from tests.fleet.people import Person, register
from tests.rigs.waiting import wait_until

pytestmark = pytest.mark.fleet
_DEAD_AFTER_S, _STUCK_AFTER_S = 2.0, 7.0
_TEXT = {"msgtype": "m.text", "body": "hello"}


@pytest.fixture(scope="module")
def orders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults") / "orders"


@pytest.fixture(scope="module")
def breakable(postgres_module: TestDatabase, orders: Path) -> Iterator[RunningFleet]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(orders))
        none = dict.fromkeys(("federation_reader", "federation_sender", "background", "media"), 0)
        yield from run_fleet(
            {
                "database": {"dsn": postgres_module.dsn},
                "fleet": {"event_persister": 2, "synchrotron": 1, **none},
                "replication": {
                    "heartbeat_s": 0.2,
                    "dead_after_s": _DEAD_AFTER_S,
                    "stuck_after_s": _STUCK_AFTER_S,
                },
                "testing": {"fault_points": True},
            }
        )


@pytest.fixture(scope="module")
def alice(breakable: RunningFleet) -> Person:
    person = register(breakable, "alice")
    wait_until(lambda: person.call("POST", "/createRoom", {}).status == 200)
    return person


def sql(postgres: TestDatabase, statement: str) -> list[Any]:
    async def ask() -> list[Any]:
        conn = await asyncpg.connect(postgres.dsn)
        try:
            return list(await conn.fetch(statement))
        finally:
            await conn.close()

    return asyncio.run(ask())


def logs_of(fleet: RunningFleet) -> str:
    return "\n".join(file.read_text() for file in sorted(fleet.directory.rglob("*.log")))


def leases_of(postgres: TestDatabase) -> dict[str, int]:
    return {row["process"]: row["lease"] for row in sql(postgres, "SELECT process, lease FROM leases")}


def test_blocked_process_keeps_its_lease(
    breakable: RunningFleet, postgres_module: TestDatabase, alice: Person, orders: Path
) -> None:
    room_id = alice.create_room()
    before = leases_of(postgres_module)
    orders.write_text("built block")
    end = threading.Timer(2 * _DEAD_AFTER_S, orders.unlink)
    end.start()
    answer = alice.send(room_id, "slow", _TEXT)
    end.join()
    assert answer.status == 200, answer
    assert leases_of(postgres_module) == before
    wait_until(lambda: not sql(postgres_module, "SELECT 1 FROM blocking_work"), "the note is still there")
    logs = logs_of(breakable)
    assert "send_event" in logs and "in _carry_out" in logs, "the log names the endpoint and the code"


def test_request_that_ends_two_processes_is_set_aside(
    breakable: RunningFleet, postgres_module: TestDatabase, alice: Person, orders: Path
) -> None:
    room_id = alice.create_room()
    before = leases_of(postgres_module)
    orders.write_text("built block")
    statuses: list[int] = []

    def is_set_aside() -> bool:
        try:
            statuses.append(alice.send(room_id, "poison", _TEXT).status)
        except OSError:
            statuses.append(0)
        return statuses[-1] == 429

    try:
        wait_until(is_set_aside, "the request was not set aside")
    finally:
        orders.unlink()
    deaths = sql(
        postgres_module, "SELECT DISTINCT lease FROM blocking_work WHERE lease NOT IN (SELECT lease FROM leases)"
    )
    assert len(deaths) == 2, (statuses, deaths)
    assert {row["lease"] for row in deaths} & set(before.values())
    logs = logs_of(breakable)
    assert "its event loop has not moved for" in logs and "in _carry_out" in logs
    assert f"ended with code {STUCK}" in logs
    bob = register(breakable, "bob")
    other = alice.create_room(preset="public_chat")
    wait_until(lambda: bob.call("POST", f"/rooms/{quote(other)}/join", {}).status == 200)
    assert alice.send(room_id, "harmless", _TEXT).status == 200
    assert bob.send(other, "poison", _TEXT).status == 200
    refused = alice.send(room_id, "poison", _TEXT)
    assert refused.status == 429 and refused.json()["retry_after_ms"] > 60_000
