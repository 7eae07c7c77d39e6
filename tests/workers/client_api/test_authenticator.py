"""The cache of access tokens: bounded, loaded once, never older than a log-out that it was told of."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.core.errors import MatrixError, Unavailable
from shared.core.rows import SessionRow
from shared.operations import authenticate
from shared.operations.authenticate import TokenAuthenticator
from tests.rigs.clock import MockClock


class _Database:
    """Answers the look-up of any token with a session, once `go` is set; counts."""

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.asked = 0
        self.ended = False

    async def fetchrow(self, sql: str, *args: Any) -> dict[str, Any] | None:
        self.asked += 1
        ended = self.ended
        await self.go.wait()
        if ended:
            return None
        return {
            "user_id": "@a:b",
            "device_id": "D",
            "device_created_ms": 0,
            "expires_ms": None,
            "refresh_hash": None,
            "kind": "user",
            "is_admin": False,
            "deactivated": False,
            "has_predecessor": False,
        }


class _Request:
    client_address = "192.0.2.1"


_REQUEST: Any = _Request()


async def _nothing_new() -> None:
    """Postgres has no log-outs that we do not know of."""


def _make(
    database: _Database, budget_bytes: int = 1 << 20, clock: MockClock | None = None, read_changes: Any = _nothing_new
) -> TokenAuthenticator:
    anything: Any = database
    return TokenAuthenticator(anything, clock or MockClock(), budget_bytes, read_changes)


async def test_many_at_once_load_once() -> None:
    database = _Database()
    authenticator = _make(database)
    await asyncio.gather(*(authenticator.authenticate("t", _REQUEST) for _ in range(50)))
    await authenticator.authenticate("t", _REQUEST)
    assert database.asked == 1


async def test_a_log_out_during_the_load_is_not_overlooked() -> None:
    """The look-up saw the token, then it was ended: what was read must not stay in the cache."""
    for row in (
        SessionRow(position=0, writer=0, user_id="@a:b", device_id="D"),
        SessionRow(position=0, writer=0, user_id="@a:b", device_id=None),
    ):
        database = _Database()
        database.go.clear()
        authenticator = _make(database)
        first = asyncio.ensure_future(authenticator.authenticate("t", _REQUEST))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        database.ended = True
        authenticator.apply_sessions([row])
        database.go.set()
        await first
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)


async def test_other_devices_stay_cached() -> None:
    database = _Database()
    authenticator = _make(database)
    await authenticator.authenticate("t", _REQUEST)
    authenticator.apply_sessions(
        [
            SessionRow(position=0, writer=0, user_id="@a:b", device_id="OTHER"),
            SessionRow(position=0, writer=0, user_id="@x:y", device_id=None),
        ]
    )
    await authenticator.authenticate("t", _REQUEST)
    assert database.asked == 1
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id="@a:b", device_id="D")])
    await authenticator.authenticate("t", _REQUEST)
    assert database.asked == 2


async def test_the_budget_is_honoured() -> None:
    database = _Database()
    authenticator = _make(database, budget_bytes=10_000)

    async def remembered() -> int:
        """Count the latest tokens that cost no query, newest first."""
        for count, number in enumerate(reversed(range(100))):
            asked = database.asked
            await authenticator.authenticate(f"t{number}", _REQUEST)
            if database.asked > asked:
                return count
        return 100

    for number in range(100):
        await authenticator.authenticate(f"t{number}", _REQUEST)
    assert 5 <= await remembered() <= 12
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id="@a:b", device_id=None)])
    assert await remembered() == 0


class _Log:
    """The stream `sessions` as Postgres has it. broken: it cannot be read."""

    def __init__(self) -> None:
        self.rows: list[SessionRow] = []
        self.reads = 0
        self.broken = False
        self.apply: Any = None

    async def read(self) -> None:
        self.reads += 1
        if self.broken:
            raise Unavailable("away")
        rows, self.rows = self.rows, []
        self.apply(rows)


@asynccontextmanager
async def _watched(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[TokenAuthenticator, _Database, MockClock, _Log]]:
    monkeypatch.setattr(authenticate, "_READ_EVERY_S", 0.01)
    database, clock, log = _Database(), MockClock(), _Log()
    authenticator = _make(database, clock=clock, read_changes=log.read)
    log.apply = authenticator.apply_sessions
    watch = asyncio.ensure_future(authenticator.watch())
    yield authenticator, database, clock, log
    watch.cancel()


async def test_a_second_after_it_was_ended_no_token_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes over the bus (note B14). In the usual case no request asks Postgres."""
    async with _watched(monkeypatch) as (authenticator, database, clock, log):
        await authenticator.authenticate("t", _REQUEST)
        for _ in range(10):
            await asyncio.sleep(0.02)
            clock.advance(0.4)
            await asyncio.sleep(0.02)
            await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 1
        database.ended = True
        log.rows.append(SessionRow(position=0, writer=0, user_id="@a:b", device_id="D"))
        await asyncio.sleep(0.05)
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)
        # Nobody comes any more: nothing is read.
        clock.advance(10)
        await asyncio.sleep(0.03)
        reads = log.reads
        await asyncio.sleep(0.05)
        assert log.reads == reads


async def test_who_cannot_read_the_log_outs_trusts_his_memory_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _watched(monkeypatch) as (authenticator, database, clock, log):
        await authenticator.authenticate("t", _REQUEST)
        await asyncio.sleep(0.05)
        log.broken = True
        await asyncio.sleep(0.03)
        clock.advance(0.5)
        await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 1
        clock.advance(0.4)
        await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 2
        clock.advance(0.9)
        database.ended = True
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)


async def test_nobody_joins_a_look_up_that_is_older_than_a_log_out() -> None:
    database = _Database()
    database.go.clear()
    authenticator = _make(database)
    early = asyncio.ensure_future(authenticator.authenticate("t", _REQUEST))
    await asyncio.sleep(0.01)
    database.ended = True
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id="@a:b", device_id="D")])
    late = asyncio.ensure_future(authenticator.authenticate("t", _REQUEST))
    await asyncio.sleep(0.01)
    database.go.set()
    await early
    with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
        await late
    with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
        await authenticator.authenticate("t", _REQUEST)
    assert not authenticator._running


async def test_what_waits_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log-out of the same device or of all; others go on; who comes to his answer too late gets none."""
    async with _watched(monkeypatch) as (authenticator, database, clock, log):
        requester = await authenticator.authenticate("t", _REQUEST)
        go = asyncio.Event()

        async def wait() -> str:
            async with authenticator.hold(requester):
                await go.wait()
            return "answered"

        held = asyncio.ensure_future(wait())
        await asyncio.sleep(0.02)
        log.rows += [
            SessionRow(position=0, writer=0, user_id="@a:b", device_id="OTHER"),
            SessionRow(position=0, writer=0, user_id="@x:y", device_id=None),
            SessionRow(position=0, writer=0, user_id="@a:b", device_id=None),
        ]  # the last leaves this one
        await asyncio.sleep(0.05)
        assert not held.done()
        log.rows.append(SessionRow(position=0, writer=0, user_id="@a:b", device_id="D"))
        database.ended = True
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            async with asyncio.timeout(1):
                await held
        # Out of touch: the body ends by itself, its answer is not given.
        log.broken = True
        go.set()
        clock.advance(1)
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await wait()
        # And who goes away is just cancelled.
        database.ended = False
        go.clear()
        gone = asyncio.ensure_future(wait())
        await asyncio.sleep(0.02)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
        assert authenticator._held == {}
