"""Requests that begin, renew or end sessions of one user at the same time, in two processes.

A lock holds one of them in the middle while the other overtakes it, or waits for it.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.config.sections import Quotas, Rate, RateLimits
from tests.fix_servers import TestDatabase
from tests.rigs.blockers import blocker, soon
from tests.rigs.client_api import ClientApi, User, client_api, make_config, password_login
from tests.rigs.requests import Answer
from tests.rigs.worker import NO_LIMITS
from tests.workers.client_api.keys import identity_keys, one_time_keys

_NEW = "battery staple"


@asynccontextmanager
async def two_processes(dsn: str, **sections: Any) -> AsyncIterator[tuple[ClientApi, ClientApi]]:
    config = make_config(**sections)
    async with client_api(dsn, config) as one, client_api(dsn, config, name="client_api-2") as two:
        yield one, two


async def _lives(worker: ClientApi, token: str) -> bool:
    return bool((await worker.call("GET", "/account/whoami", token=token)).status == 200)


def _refreshable(name: str, device_id: str | None = None) -> dict[str, Any]:
    device = {} if device_id is None else {"device_id": device_id}
    return password_login(name) | {"refresh_token": True} | device


async def _change_password(user: User, at: ClientApi, new: str = _NEW, **more: Any) -> Answer:
    body = {"new_password": new, "auth": password_login(user.user_id), **more}
    return await at.call("POST", "/account/password", body, token=user.token)


async def _living_pairs(worker: ClientApi, pairs: list[dict[str, Any]]) -> int:
    """Return how many pairs have a token that is accepted. Refresh tokens first: a use may end other pairs."""
    living = 0
    for pair in pairs:
        renewed = await worker.call("POST", "/refresh", {"refresh_token": pair["refresh_token"]})
        living += renewed.status == 200 or await _lives(worker, pair["access_token"])
    return living


async def test_refresh_token_shown_twice_at_once_leaves_one_pair(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        await one.register("alice")
        first = (await one.call("POST", "/login", _refreshable("alice"))).json["refresh_token"]
        async with blocker(postgres.dsn, "SELECT 1 FROM users, refresh_tokens FOR UPDATE") as lock:
            shown = [soon(at.call("POST", "/refresh", {"refresh_token": first})) for at in (one, two)]
            await lock.until_waiting(2)
            await lock.commit()
            pairs = [answer.json for answer in await asyncio.gather(*shown)]
        assert await _living_pairs(one, pairs) == 1
        # The client may have missed both answers, or rather: it has used neither. After a use the old token is void.
        assert (await one.call("POST", "/refresh", {"refresh_token": first})).status == 401


async def test_repeated_refresh_works_until_the_new_pair_is_used(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        await one.register("alice")
        first = (await one.call("POST", "/login", _refreshable("alice"))).json["refresh_token"]
        pairs = [
            answer.json
            for answer in await asyncio.gather(
                *(at.call("POST", "/refresh", {"refresh_token": first}) for at in (one, two) * 4)
            )
        ]
        assert all("access_token" in pair for pair in pairs), pairs
        last = (await two.call("POST", "/refresh", {"refresh_token": first})).json
        assert await _lives(one, last["access_token"])
        assert (await two.call("POST", "/refresh", {"refresh_token": first})).status == 401
        assert await _living_pairs(one, pairs) == 0
        assert (await one.call("POST", "/refresh", {"refresh_token": last["refresh_token"]})).status == 200


async def test_login_does_not_survive_the_change_of_its_password(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice")
        async with blocker(postgres.dsn, "INSERT INTO devices (user_id, device_id, created_ms) VALUES ($1, 'RACE', 0)",
                           alice.user_id) as lock:  # fmt: skip
            login = soon(one.call("POST", "/login", password_login("alice") | {"device_id": "RACE"}))
            await lock.until_waiting(1)
            change = soon(_change_password(alice, two))
            await lock.until_waiting(2, change)
            await lock.roll_back()
            answer, changed = await asyncio.gather(login, change)
        assert changed.status == 200, changed.body
        assert answer.status == 403 or not await _lives(two, answer.json["access_token"])
        assert await _lives(two, alice.token)


async def test_login_after_the_change_needs_the_new_password(postgres: TestDatabase) -> None:
    """The password was verified before the change, and the session is stored after it."""
    async with client_api(postgres.dsn) as one:
        await one.register("alice")
        async with blocker(postgres.dsn, "LOCK TABLE devices IN EXCLUSIVE MODE") as lock:
            # It holds the log-in at the storing of the session, and the password is replaced meanwhile.
            await lock.execute("UPDATE users SET session_turn = session_turn + 1")
            login = soon(one.call("POST", "/login", password_login("alice")))
            await lock.until_waiting(1)
            await lock.execute("UPDATE users SET password_hash = 'another', session_turn = session_turn + 1")
            await lock.commit()
            answer = await login
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert len(await one.sql("SELECT 1 FROM access_tokens")) == 1


async def test_many_logins_beside_a_password_change_leave_no_session_of_the_old_password(
    postgres: TestDatabase,
) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice")
        logins = [soon(at.call("POST", "/login", _refreshable("alice"))) for at in (one, two) * 8]
        await asyncio.wait(logins, return_when=asyncio.FIRST_COMPLETED)
        assert (await _change_password(alice, two)).status == 200
        answers = [answer for answer in await asyncio.gather(*logins) if answer.status == 200]
        assert answers
        assert await _living_pairs(one, [answer.json for answer in answers]) == 0
        assert await _lives(one, alice.token)


@pytest.mark.parametrize("path", ["/account/password", "/account/deactivate"])
async def test_password_and_sessions_end_together_or_not_at_all(postgres: TestDatabase, path: str) -> None:
    """A crash in the middle leaves everything as it was."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        other = await worker.log_in("alice")
        await worker.sql("""
            CREATE FUNCTION crash() RETURNS trigger LANGUAGE plpgsql AS $$
                BEGIN RAISE EXCEPTION 'crash' USING ERRCODE = '57014'; END $$
        """)
        await worker.sql("CREATE TRIGGER crash BEFORE DELETE ON access_tokens FOR EACH ROW EXECUTE FUNCTION crash()")
        body = {"new_password": _NEW, "auth": password_login("alice")}
        failed = await alice.call("POST", path, body)
        assert failed.status == 503, failed.body
        assert await _lives(worker, other.token)
        await worker.log_in("alice", other.device_id + "2")
        await worker.sql("DROP TRIGGER crash ON access_tokens")
        assert (await alice.call("POST", path, body)).status == 200
        assert not await _lives(worker, other.token)


async def test_open_interactive_sessions_end_with_the_password(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        begun = (await worker.call("POST", "/register", {})).json["session"]
        body = {
            "username": "alice",
            "password": "correct horse",
            "auth": {"type": "m.login.dummy", "session": begun},
        }
        made = (await worker.call("POST", "/register", body)).json
        alice = User(worker, made["user_id"], made["access_token"], made["device_id"])
        open_session = (await alice.call("POST", "/delete_devices", {"devices": ["X"]})).json["session"]
        assert (await _change_password(alice, worker)).status == 200
        # The session of the registration logs in again, until the password is changed.
        again = await worker.call("POST", "/register", {"auth": {"session": begun}})
        assert again.status == 401, again.body
        auth = password_login("alice", _NEW) | {"session": open_session}
        unknown = await alice.call("POST", "/delete_devices", {"devices": ["X"], "auth": auth})
        assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN")


@pytest.mark.parametrize("end", ["/logout", "/logout/all"])
async def test_logout_ends_a_session_that_is_being_refreshed(postgres: TestDatabase, end: str) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        await one.register("alice")
        pair = (await one.call("POST", "/login", _refreshable("alice", "PHONE"))).json
        async with blocker(postgres.dsn, "SELECT 1 FROM devices FOR UPDATE") as lock:
            logout = soon(one.call("POST", end, token=pair["access_token"]))
            await lock.until_waiting(1)
            refresh = soon(two.call("POST", "/refresh", {"refresh_token": pair["refresh_token"]}))
            await lock.until_waiting(2, refresh)
            await lock.commit()
            ended, refreshed = await asyncio.gather(logout, refresh)
        assert ended.status == 200
        if refreshed.status == 200:
            assert await _living_pairs(two, [refreshed.json]) == 0


async def test_login_on_a_device_that_is_being_deleted_has_its_device_or_is_void(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice")
        await one.log_in("alice", "PHONE")
        async with blocker(postgres.dsn, "SELECT 1 FROM devices WHERE device_id = 'PHONE' FOR UPDATE") as lock:
            auth = {"auth": password_login("alice")}
            deletion = soon(one.call("DELETE", "/devices/PHONE", auth, token=alice.token))
            await lock.until_waiting(1)
            login = soon(two.call("POST", "/login", password_login("alice") | {"device_id": "PHONE"}))
            await lock.until_waiting(2, login)
            await lock.commit()
            deleted, answer = await asyncio.gather(deletion, login)
        assert (deleted.status, answer.status) == (200, 200)
        devices = {row[0] for row in await one.sql("SELECT device_id FROM devices")}
        assert await _lives(two, answer.json["access_token"]) == ("PHONE" in devices)


@pytest.mark.parametrize("end", ["/logout", "/logout/all"])
async def test_deleted_device_leaves_no_keys_that_were_being_uploaded(postgres: TestDatabase, end: str) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice", device_id="PHONE")
        identity, one_time = identity_keys(alice.user_id, "PHONE"), one_time_keys("A")
        async with blocker(postgres.dsn, "INSERT INTO device_keys (user_id, device_id, json) VALUES ($1, 'PHONE', '')",
                           alice.user_id) as lock:  # fmt: skip
            keys = {"device_keys": identity, "one_time_keys": one_time}
            upload = soon(one.call("POST", "/keys/upload", keys, token=alice.token))
            await lock.until_waiting(1)
            logout = soon(two.call("POST", end, token=alice.token))
            await lock.until_waiting(2, logout)
            await lock.roll_back()
            assert [answer.status for answer in await asyncio.gather(upload, logout)] == [200, 200]
        for table in ("devices", "device_keys", "one_time_keys", "fallback_keys"):
            assert await one.sql(f"SELECT 1 FROM {table}") == [], table


async def test_one_password_allows_one_change(postgres: TestDatabase) -> None:
    """A thief and the owner change the password at the same time, both with the old one."""
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice")
        thief = await two.log_in("alice")
        async with blocker(postgres.dsn, "SELECT 1 FROM users FOR UPDATE") as lock:
            changes = [
                soon(_change_password(alice, one, "the owner's words")),
                soon(_change_password(thief, two, "the thief's words")),
            ]
            await lock.until_waiting(2)
            await lock.commit()
            answers = await asyncio.gather(*changes)
        assert sorted(answer.status for answer in answers) == [200, 403]


async def test_password_that_was_changed_closes_no_account_and_deletes_no_device(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        alice = await one.register("alice")
        thief = await two.log_in("alice", "THIEF")
        [[original]] = await one.sql("SELECT password_hash FROM users")
        for method, path in (("POST", "/account/deactivate"), ("DELETE", f"/devices/{alice.device_id}")):
            password = password_login("alice", "correct horse")
            async with blocker(postgres.dsn, "SELECT 1 FROM users FOR UPDATE") as lock:
                late = soon(two.call(method, path, {"auth": password}, token=thief.token))
                await lock.until_waiting(1)
                await lock.execute("UPDATE users SET password_hash = 'another', session_turn = session_turn + 1")
                await lock.commit()
                answer = await late
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), path
            assert await _lives(one, alice.token), path
            await one.sql("UPDATE users SET password_hash = $1", original)


async def test_guest_who_logged_out_is_not_upgraded(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn) as (one, two):
        guest = await one.register_guest()
        body = {
            "guest_access_token": guest.token,
            "username": guest.user_id[1:].partition(":")[0],
            "password": "correct horse",
            "auth": {"type": "m.login.dummy"},
        }
        async with blocker(postgres.dsn, "SELECT 1 FROM users FOR UPDATE") as lock:
            upgrade = soon(one.call("POST", "/register", body))
            await lock.until_waiting(1)
            await lock.execute("DELETE FROM access_tokens")
            await lock.execute("UPDATE users SET session_turn = session_turn + 1")
            await lock.commit()
            answer = await upgrade
        assert answer.status != 200
        assert [tuple(row) for row in await two.sql("SELECT kind, password_hash FROM users")] == [("guest", None)]


async def test_profile_of_a_closed_account_stays_empty(postgres: TestDatabase) -> None:
    """The request began before the account was closed."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        async with blocker(postgres.dsn, "UPDATE users SET deactivated = true") as lock:
            path = f"/profile/{alice.quoted}/displayname"
            late = soon(alice.call("PUT", path, {"displayname": "Alice"}))
            await lock.until_waiting(1)
            await lock.execute("DELETE FROM profiles")
            await lock.commit()
            answer = await late
        assert (answer.status, answer.errcode) == (403, "M_USER_DEACTIVATED")
        assert await worker.sql("SELECT 1 FROM profiles") == []


async def test_logins_at_once_keep_to_the_limit_of_devices(postgres: TestDatabase) -> None:
    async with two_processes(postgres.dsn, quotas=Quotas(devices=2)) as (one, two):
        alice = await one.register("alice")
        async with blocker(postgres.dsn, "SELECT 1 FROM users FOR UPDATE") as lock:
            logins = [soon(at.call("POST", "/login", password_login("alice"))) for at in (one, two)]
            await lock.until_waiting(2)
            await lock.commit()
            answers = await asyncio.gather(*logins)
        assert sorted(answer.status for answer in answers) == [200, 403]
        assert len((await alice.call("GET", "/devices")).json["devices"]) == 2


def _login_limit(burst: int) -> RateLimits:
    return RateLimits(**{**dict.fromkeys(NO_LIMITS.__dataclass_fields__), "login": Rate(0.001, burst)})


async def test_strangers_do_not_lock_a_user_out(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, make_config(rate_limits=_login_limit(3))) as worker:
        alice = await worker.register("alice")
        home = "203.0.113.5"
        assert (await worker.call("POST", "/login", password_login("alice"), address=home)).status == 200
        wrong = password_login("alice", "wrong")
        statuses = [
            (await worker.call("POST", "/login", wrong, address=f"192.0.2.{number}")).status for number in range(10, 16)
        ]
        assert statuses.count(429) == 4, "one token of the account was used at home, before it was known"
        elsewhere = await worker.call("POST", "/login", password_login("alice"), address="198.51.100.1")
        assert elsewhere.status == 429
        assert (await worker.call("POST", "/login", password_login("alice"), address=home)).status == 200
        # The user's devices may authenticate requests from anywhere.
        body = {"new_password": _NEW, "auth": password_login("alice")}
        changed = await alice.call("POST", "/account/password", body, address="198.51.100.2")
        assert changed.status == 200, changed.body
        # A known address and a device have limits too.
        guesses = [(await worker.call("POST", "/login", wrong, address=home)).status for _ in range(3)]
        assert 429 in guesses
        guesses = [
            (
                await alice.call(
                    "POST", "/delete_devices", {"devices": [], "auth": wrong}, address=f"198.51.100.{number}"
                )
            ).status
            for number in range(10, 14)
        ]
        assert guesses[-1] == 429


async def test_known_ipv6_network_has_a_bucket_of_its_own(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, make_config(rate_limits=_login_limit(3))) as worker:
        await worker.register("alice")
        at_home = await worker.call("POST", "/login", password_login("alice"), address="2001:db8:1:2::5")
        assert at_home.status == 200
        wrong = password_login("alice", "wrong")
        for number in range(10, 13):
            await worker.call("POST", "/login", wrong, address=f"192.0.2.{number}")
        for address, status in (("2001:db8:1:2:a:b:c:d", 200), ("2001:db8:1:3::5", 429)):
            assert (await worker.call("POST", "/login", password_login("alice"), address=address)).status == status


async def test_another_account_has_no_bucket_of_its_own_for_the_victim(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, make_config(rate_limits=_login_limit(3))) as worker:
        await worker.register("alice")
        mallory = await worker.register("mallory")
        body = {"devices": [], "auth": password_login("alice", "wrong")}
        for number in range(3):
            await mallory.call("POST", "/delete_devices", body, address=f"192.0.2.{number}")
        refused = await worker.call("POST", "/login", password_login("alice"), address="198.51.100.1")
        assert refused.status == 429


async def test_addresses_of_logins_are_bounded(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        await worker.register("alice")
        await worker.sql("""
            INSERT INTO login_addresses SELECT '@alice:example.org', '192.0.2.' || n, n FROM generate_series(1, 25) AS n
        """)
        answer = await worker.call("POST", "/login", password_login("alice"), address="203.0.113.5")
        assert answer.status == 200
        kept = {row[0] for row in await worker.sql("SELECT address FROM login_addresses")}
        assert kept == {"203.0.113.5"} | {f"192.0.2.{number}" for number in range(7, 26)}
