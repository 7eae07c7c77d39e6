"""The log of refused log-ins, which shows operators the account, the address and the reason."""

import logging

import pytest

from shared.config.sections import Rate, RateLimits
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, client_api, make_config, password_login
from tests.rigs.worker import NO_LIMITS

_PASSWORD = "correct horse"


async def log_in(worker: ClientApi, user: str, password: str) -> int:
    return (await worker.call("POST", "/login", password_login(user, password))).status


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [record.getMessage() for record in caplog.records if record.getMessage().startswith("Log-in of ")]
    caplog.clear()
    return found


async def test_refused_login_is_logged_with_its_reason(
    postgres: TestDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    fields = dict.fromkeys(NO_LIMITS.__dataclass_fields__)
    limits = RateLimits(**{**fields, "login": Rate(0.001, 3)})
    async with client_api(postgres.dsn, make_config(rate_limits=limits)) as worker:
        registered = {"username": "alice", "password": _PASSWORD, "auth": {"type": "m.login.dummy"}}
        assert (await worker.call("POST", "/register", registered)).status == 200
        with caplog.at_level(logging.INFO):
            assert await log_in(worker, "alice", _PASSWORD) == 200
            assert lines(caplog) == []
            assert await log_in(worker, "alice", "a secret guess") == 403
            [line] = lines(caplog)
            assert line.startswith("Log-in of @alice:example.org refused: wrong password (address ")
            assert await log_in(worker, "nobody\nthere", _PASSWORD) == 403
            [line] = lines(caplog)
            assert line.startswith("Log-in of @nobody there:example.org refused: no such account (address ")
            assert await log_in(worker, "alice", _PASSWORD) == 429
            [line] = lines(caplog)
            assert line.startswith("Log-in of @alice:example.org refused: too many attempts (address ")
        assert "a secret guess" not in caplog.text and _PASSWORD not in caplog.text


async def test_addresses_of_one_ipv6_network_share_their_attempts(postgres: TestDatabase) -> None:
    fields = dict.fromkeys(NO_LIMITS.__dataclass_fields__)
    limits = RateLimits(**{**fields, "login": Rate(0.001, 3)})

    async with client_api(postgres.dsn, make_config(rate_limits=limits)) as worker:

        async def status_from(number: int, address: str) -> int:
            body = password_login(f"nobody{number}", _PASSWORD)
            return (await worker.call("POST", "/login", body, address=address)).status

        statuses = [await status_from(number, f"2001:db8::{number:x}") for number in range(4)]
        assert statuses == [403, 403, 403, 429]
        assert await status_from(5, "2001:db8:0:1::") == 403
