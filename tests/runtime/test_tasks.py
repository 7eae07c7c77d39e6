"""Background tasks: a failure has a traceback, an outage one line."""

import asyncio
import logging

import pytest

from shared.core.errors import Fenced, Unavailable
from shared.runtime.tasks import TaskGroup


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock of the module: one number that a test changes."""
    now = [0.0]
    monkeypatch.setattr("shared.runtime.tasks.time.monotonic", lambda: now[0])
    return now


async def fail(group: TaskGroup, error: Exception, times: int = 1) -> None:
    async def run() -> None:
        raise error

    spawned = [group.spawn(run(), f"task {number}") for number in range(times)]
    await asyncio.wait(spawned)
    await asyncio.sleep(0)


async def test_outage_is_one_line_without_traceback(caplog: pytest.LogCaptureFixture, now_s: list[float]) -> None:
    group = TaskGroup()
    await fail(group, Unavailable("The database is not available just now"), times=30)
    now_s[0] = 9.0  # still the same outage, which the next one prolongs
    await fail(group, Unavailable("All database connections are busy"))
    now_s[0] = 18.0
    await fail(group, Unavailable("All database connections are busy"))
    [record] = caplog.records
    assert record.levelno == logging.WARNING and record.exc_info is None
    assert "task 0: The database is not available just now" in record.getMessage()
    now_s[0] = 28.0
    await fail(group, Unavailable("The database is not available just now"))
    assert len(caplog.records) == 2


async def test_lost_lease_is_logged_where_it_was_lost(caplog: pytest.LogCaptureFixture) -> None:
    await fail(TaskGroup(), Fenced("This process has lost its lease"))
    assert caplog.records == []


async def test_bug_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    await fail(TaskGroup(), ValueError("a bug"), times=2)
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]
    assert all(record.exc_info for record in caplog.records)
