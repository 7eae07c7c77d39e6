"""The cache of access tokens: bounded, loaded once, never older than a log-out that it was told of."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from shared.core.errors import MatrixError
from shared.operations.authenticate import TokenAuthenticator
from tests.workers.client_api.rig import run


@dataclass
class _Row:
    user_id: str
    device_id: str | None


class _Clock:
    def now_ms(self) -> int:
        return 1000

    def monotonic_s(self) -> float:
        return 1.0


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
            "user_id": "@a:b", "device_id": "D", "expires_ms": None, "refresh_hash": None, "kind": "user",
            "is_admin": False, "deactivated": False, "has_predecessor": False,
        }  # fmt: skip


class _Request:
    client_address = "192.0.2.1"


_REQUEST: Any = _Request()


def _make(database: _Database, budget_bytes: int = 1 << 20, **more: Any) -> TokenAuthenticator:
    anything: Any = database
    return TokenAuthenticator(anything, _Clock(), budget_bytes, **more)


def test_many_at_once_load_once() -> None:
    async def test() -> None:
        database = _Database()
        authenticator = _make(database)
        await asyncio.gather(*(authenticator.authenticate("t", _REQUEST) for _ in range(50)))
        await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 1

    run(test())


def test_a_log_out_during_the_load_is_not_overlooked() -> None:
    """The look-up saw the token, then it was ended: what was read must not stay in the cache."""

    async def test() -> None:
        for row in (_Row("@a:b", "D"), _Row("@a:b", None)):
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

    run(test())


def test_other_devices_stay_cached() -> None:
    async def test() -> None:
        database = _Database()
        authenticator = _make(database)
        await authenticator.authenticate("t", _REQUEST)
        authenticator.apply_sessions([_Row("@a:b", "OTHER"), _Row("@x:y", None)])
        await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 1
        authenticator.apply_sessions([_Row("@a:b", "D")])
        await authenticator.authenticate("t", _REQUEST)
        assert database.asked == 2

    run(test())


def test_the_budget_is_honoured() -> None:
    async def test() -> None:
        authenticator = _make(_Database(), budget_bytes=10_000)
        for number in range(100):
            await authenticator.authenticate(f"t{number}", _REQUEST)
        statistics = authenticator.statistics()
        assert statistics["bytes"] <= 10_000
        assert 5 <= statistics["entries"] <= 12
        authenticator.apply_sessions([_Row("@a:b", None)])
        assert authenticator.statistics()["entries"] == 0

    run(test())


def test_out_of_touch_nothing_is_answered_from_memory() -> None:
    async def test() -> None:
        database, trusted = _Database(), True
        authenticator = _make(database, may_trust_cache=lambda: trusted)
        await authenticator.authenticate("t", _REQUEST)
        trusted = False
        database.ended = True
        with pytest.raises(MatrixError, match="M_UNKNOWN_TOKEN"):
            await authenticator.authenticate("t", _REQUEST)

    run(test())
