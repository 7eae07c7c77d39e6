"""The cache of access tokens: bounded, loaded once, never older than a log-out that this process has seen."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.config.sections import Rate
from shared.core.errors import MatrixError, Unavailable
from shared.core.identifiers import UserId
from shared.core.rows import SessionRow
from shared.operations import authenticate
from shared.operations.authenticate import TokenAuthenticator
from shared.operations.token_guesses import TokenGuesses
from tests.rigs.clock import MockClock


class _Database:
    """Answers the look-up of any token with a session, and counts look-ups.

    go: answers wait until it is set.
    ended: True if there is no session any more.
    """

    def __init__(self) -> None:
        self.go = asyncio.Event()
        self.go.set()
        self.lookups = 0
        self.ended = False

    async def fetchrow(self, sql: str, *args: Any) -> dict[str, Any] | None:
        self.lookups += 1
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
    """PostgreSQL has no log-outs that the authenticator has not seen."""


def _make(
    database: _Database,
    budget_bytes: int = 1 << 20,
    clock: MockClock | None = None,
    read_changes: Any = _nothing_new,
    rate: Rate | None = None,
) -> TokenAuthenticator:
    anything: Any = database
    clock = clock or MockClock()
    return TokenAuthenticator(anything, clock, budget_bytes, TokenGuesses(rate, clock), read_changes)


async def test_concurrent_requests_share_one_lookup() -> None:
    database = _Database()
    authenticator = _make(database)
    await asyncio.gather(*(authenticator.authenticate("t", _REQUEST) for _ in range(50)))
    await authenticator.authenticate("t", _REQUEST)
    assert database.lookups == 1


async def test_logout_during_a_lookup_ends_the_token() -> None:
    """A look-up that read the token before the log-out must not fill the cache after it."""
    for row in (
        SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="D"),
        SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id=None),
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


async def test_logout_evicts_only_its_own_device() -> None:
    database = _Database()
    authenticator = _make(database)
    await authenticator.authenticate("t", _REQUEST)
    authenticator.apply_sessions(
        [
            SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="OTHER"),
            SessionRow(position=0, writer=0, user_id=UserId("@x:y"), device_id=None),
        ]
    )
    await authenticator.authenticate("t", _REQUEST)
    assert database.lookups == 1
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="D")])
    await authenticator.authenticate("t", _REQUEST)
    assert database.lookups == 2


async def test_cache_stays_within_its_budget() -> None:
    database = _Database()
    authenticator = _make(database, budget_bytes=10_000)

    async def cached() -> int:
        """Count the latest tokens that need no look-up, newest first."""
        for count, number in enumerate(reversed(range(100))):
            lookups = database.lookups
            await authenticator.authenticate(f"t{number}", _REQUEST)
            if database.lookups > lookups:
                return count
        return 100

    for number in range(100):
        await authenticator.authenticate(f"t{number}", _REQUEST)
    assert 5 <= await cached() <= 12
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id=None)])
    assert await cached() == 0


class _Log:
    """The stream `sessions` in PostgreSQL. broken: True if it cannot be read."""

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


async def test_ended_token_is_refused_within_a_second_without_the_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing comes over the bus. Requests in the usual case do not query PostgreSQL."""
    async with _watched(monkeypatch) as (authenticator, database, clock, log):
        await authenticator.authenticate("t", _REQUEST)
        for _ in range(10):
            await asyncio.sleep(0.02)
            clock.advance(0.4)
            await asyncio.sleep(0.02)
            await authenticator.authenticate("t", _REQUEST)
        assert database.lookups == 1
        database.ended = True
        log.rows.append(SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="D"))
        await asyncio.sleep(0.05)
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)
        # Without requests the stream is not read.
        clock.advance(10)
        await asyncio.sleep(0.03)
        reads = log.reads
        await asyncio.sleep(0.05)
        assert log.reads == reads


async def test_cache_is_not_trusted_while_logouts_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with _watched(monkeypatch) as (authenticator, database, clock, log):
        await authenticator.authenticate("t", _REQUEST)
        await asyncio.sleep(0.05)
        log.broken = True
        await asyncio.sleep(0.03)
        clock.advance(0.5)
        await authenticator.authenticate("t", _REQUEST)
        assert database.lookups == 1
        clock.advance(0.4)
        await authenticator.authenticate("t", _REQUEST)
        assert database.lookups == 2
        clock.advance(0.9)
        database.ended = True
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)


async def test_request_does_not_share_a_lookup_from_before_a_logout() -> None:
    database = _Database()
    database.go.clear()
    authenticator = _make(database)
    early = asyncio.ensure_future(authenticator.authenticate("t", _REQUEST))
    await asyncio.sleep(0.01)
    database.ended = True
    authenticator.apply_sessions([SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="D")])
    late = asyncio.ensure_future(authenticator.authenticate("t", _REQUEST))
    await asyncio.sleep(0.01)
    database.go.set()
    await early
    with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
        await late
    with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
        await authenticator.authenticate("t", _REQUEST)
    assert not authenticator._running


async def test_long_poll_ends_with_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log-outs of other devices leave it alone. An answer that comes after the log-out is not sent."""
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
            SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="OTHER"),
            SessionRow(position=0, writer=0, user_id=UserId("@x:y"), device_id=None),
            # all sessions except this one, as after a password change
            SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id=None),
        ]
        await asyncio.sleep(0.05)
        assert not held.done()
        log.rows.append(SessionRow(position=0, writer=0, user_id=UserId("@a:b"), device_id="D"))
        database.ended = True
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            async with asyncio.timeout(1):
                await held
        # While log-outs cannot be read, an answer that is ready is not sent.
        log.broken = True
        go.set()
        clock.advance(1)
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await wait()
        # A client that disconnects cancels the request.
        database.ended = False
        go.clear()
        cancelled = asyncio.ensure_future(wait())
        await asyncio.sleep(0.02)
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled
        assert authenticator._held == {}


async def test_unknown_tokens_of_one_network_are_not_looked_up_for_ever() -> None:
    database, clock = _Database(), MockClock()
    authenticator = _make(database, clock=clock, rate=Rate(1, 5))

    def at(address: str) -> Any:
        request = _Request()
        request.client_address = address
        return request

    await authenticator.authenticate("known", _REQUEST)
    database.ended = True
    statuses = []
    for number in range(20):
        with pytest.raises(MatrixError) as refused:
            await authenticator.authenticate(f"guess {number}", at(f"2001:db8::{number:x}"))
        statuses.append(refused.value.status)
    assert statuses == [401] * 5 + [429] * 15
    assert database.lookups == 6, "a refused token was looked up"
    # Tokens that are known here work from everywhere, and other addresses may guess too.
    await authenticator.authenticate("known", at("2001:db8::1"))
    with pytest.raises(MatrixError, match="unknown"):
        await authenticator.authenticate("guess", at("2001:db8:0:1::1"))
    clock.advance(1.0)
    with pytest.raises(MatrixError, match="unknown"):
        await authenticator.authenticate("guess", at("2001:db8::1"))
