"""Registration, log-in, tokens, log-out. Spec: client-server API, "Client Authentication"."""

import asyncio
import hashlib
import hmac

import pytest

from replication.streams import SESSIONS
from shared.config.sections import Accounts, Rate, RateLimits, Registration
from shared.core.access_tokens import slot_hint
from shared.core.rows import SessionRow
from shared.core.slots import slot_of
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import SHARED_SECRET, ClientApi, client_api, make_config, password_login
from tests.rigs.requests import Answer
from tests.rigs.worker import NO_LIMITS


async def test_session_lasts_from_registration_to_logout(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        first = await worker.call("POST", "/register", {})
        assert first.status == 401
        assert first.json["flows"] == [{"stages": ["m.login.dummy"]}]
        assert first.json["session"]
        body = {
            "username": "alice",
            "password": "correct horse",
            "device_id": "PHONE",
            "auth": {"type": "m.login.dummy", "session": first.json["session"]},
        }
        made = await worker.call("POST", "/register", body)
        assert made.status == 200, made.body
        assert made.json["user_id"] == "@alice:example.org"
        assert made.json["device_id"] == "PHONE"
        token = made.json["access_token"]
        assert slot_hint(token) == slot_of("@alice:example.org")
        whoami = await worker.call("GET", "/account/whoami", token=token)
        assert whoami.json == {"user_id": "@alice:example.org", "is_guest": False, "device_id": "PHONE"}

        taken = await worker.call("POST", "/register", {**body, "auth": {"type": "m.login.dummy"}})
        assert (taken.status, taken.errcode) == (400, "M_USER_IN_USE")

        login = await worker.call("POST", "/login", password_login("alice") | {"device_id": "PHONE"})
        assert login.status == 200, login.body
        assert login.json["well_known"] == {"m.homeserver": {"base_url": "https://matrix.example.org"}}
        # The device's previous token ends at once in this process.
        assert (await worker.call("GET", "/account/whoami", token=token)).errcode == "M_UNKNOWN_TOKEN"
        assert worker.bus.rows(SESSIONS)
        new = login.json["access_token"]
        assert (await worker.call("POST", "/logout", token=new)).json == {}
        assert (await worker.call("GET", "/account/whoami", token=new)).errcode == "M_UNKNOWN_TOKEN"
        assert await worker.sql("SELECT 1 FROM devices") == []


async def test_repeated_registration_returns_the_same_account(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker, client_api(postgres.dsn, name="client_api-2") as other:
        session = (await worker.call("POST", "/register", {})).json["session"]
        auth = {"type": "m.login.dummy", "session": session}
        body = {"username": "alice", "password": "correct horse", "auth": auth}
        first = (await worker.call("POST", "/register", body)).json
        again = (await other.call("POST", "/register", body)).json
        assert (again["user_id"], again["device_id"]) == (first["user_id"], first["device_id"])
        assert (await worker.call("GET", "/account/whoami", token=again["access_token"])).status == 200
        await worker.call("GET", "/account/whoami")
        assert len(await worker.sql("SELECT 1 FROM access_tokens")) == 1, "the lost token ended"
        without_login = (await worker.call("POST", "/register", {"auth": auth, "inhibit_login": True})).json
        assert without_login == {"user_id": "@alice:example.org", "home_server": "example.org"}
        for change in ({"username": "bob"}, {"password": "another horse"}):
            refused = await worker.call("POST", "/register", body | change)
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), change
        worker.clock.advance(1000)
        late = await worker.call("POST", "/register", body)
        assert late.errcode == "M_USER_IN_USE"
        await worker.sql("UPDATE users SET deactivated = true")
        worker.clock.advance(-1000)
        assert (await worker.call("POST", "/register", body)).errcode == "M_USER_IN_USE"


async def test_user_names_are_lower_cased_at_registration(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        assert (await worker.call("GET", "/register/available", query="username=Alice")).json == {"available": True}
        assert (await worker.register("Alice")).user_id == "@alice:example.org"
        taken = await worker.call("GET", "/register/available", query="username=ALICE")
        assert taken.errcode == "M_USER_IN_USE"


async def test_new_users_have_their_user_name_as_display_name(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("Alice")
        assert (await worker.call("GET", f"/profile/{alice.quoted}")).json == {"displayname": "alice"}
        guest = await worker.register_guest()
        assert (await worker.call("GET", f"/profile/{guest.quoted}")).json == {}
    config = make_config(accounts=Accounts(default_display_name=False))
    async with client_api(postgres.dsn, config, name="client_api-2") as worker:
        bob = await worker.register("bob")
        assert (await worker.call("GET", f"/profile/{bob.quoted}")).json == {}


@pytest.mark.parametrize("user", ["bob", "@bob:example.org", "Bob"])
async def test_login_accepts_localpart_and_user_id_in_any_case(postgres: TestDatabase, user: str) -> None:
    async with client_api(postgres.dsn) as worker:
        await worker.register("bob")
        body = {"type": "m.login.password", "user": user, "password": "correct horse"}
        assert (await worker.call("POST", "/login", body)).status == 200
        for wrong in (
            {"password": "wrong"},
            {"user": "nobody"},
            {"user": "@bob:elsewhere.org"},
            {"user": "a\x00b"},
            {"user": "x" * 300},
            {"password": "x" * 10_000},
            {"password": "\x00"},
        ):
            answer = await worker.call("POST", "/login", body | wrong)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN"), wrong


async def test_malformed_logins_are_refused(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        for body, errcode in (
            ({}, "M_BAD_JSON"),
            ([], "M_BAD_JSON"),
            ({"type": 1}, "M_BAD_JSON"),
            ({"type": "m.login.token", "token": "x"}, "M_UNKNOWN"),
            ({"type": "m.login.password"}, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "password": "x"}, "M_MISSING_PARAM"),
            ({"type": "m.login.password", "password": {}, "user": "bob"}, "M_BAD_JSON"),
            ({"type": "m.login.password", "password": "x", "identifier": "bob"}, "M_BAD_JSON"),
            ({"type": "m.login.password", "password": "x", "identifier": {"type": "x"}}, "M_UNKNOWN"),
        ):
            answer = await worker.call("POST", "/login", body)
            assert (answer.status, answer.errcode) == (400, errcode), body
        assert (await worker.call("POST", "/login", raw=b"{")).errcode == "M_NOT_JSON"
        assert (await worker.call("POST", "/login", raw=b'{"a":' + b" " * (2 << 20) + b"1}")).status == 413
        thirdparty = {"type": "m.login.password", "password": "x", "medium": "email", "address": "a@b.c"}
        assert (await worker.call("POST", "/login", thirdparty)).errcode == "M_FORBIDDEN"
        assert (await worker.call("GET", "/login")).json == {"flows": [{"type": "m.login.password"}]}
        assert (await worker.call("PATCH", "/login")).status == 405


async def test_unknown_tokens_are_refused(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        missing = await worker.call("GET", "/account/whoami")
        assert (missing.status, missing.errcode) == (401, "M_MISSING_TOKEN")
        for token in ("x", "skp_000_x", "x" * 10_000, "\x01"):
            answer = await worker.call("GET", "/account/whoami", token=token)
            assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
            assert "soft_logout" not in answer.json


async def test_old_refresh_token_lasts_until_the_new_tokens_are_used(postgres: TestDatabase) -> None:
    """Spec: "The old refresh token remains valid until the new access token or refresh token is used"."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice", refresh_token=True)
        body = {
            "type": "m.login.password",
            "user": "alice",
            "password": "correct horse",
            "refresh_token": True,
            "device_id": alice.device_id,
        }
        first = (await worker.call("POST", "/login", body)).json
        assert first["expires_in_ms"] == 300_000

        async def refresh(token: str) -> dict[str, str]:
            answer = await worker.call("POST", "/refresh", {"refresh_token": token})
            assert answer.status in (200, 401), answer.body
            return answer.json  # type: ignore[no-any-return]

        second = await refresh(first["refresh_token"])
        third = await refresh(first["refresh_token"])  # the client repeats it after a lost answer
        assert "access_token" in third
        # The lost tokens are invalid. The first use of the third pair ends the first one.
        assert (await worker.call("GET", "/account/whoami", token=second["access_token"])).status == 401
        assert (await worker.call("GET", "/account/whoami", token=third["access_token"])).status == 200
        assert (await refresh(first["refresh_token"]))["errcode"] == "M_UNKNOWN_TOKEN"
        fourth = await refresh(third["refresh_token"])
        await refresh(fourth["refresh_token"])  # the use of the fourth refresh token ends the third pair
        assert (await refresh(third["refresh_token"]))["errcode"] == "M_UNKNOWN_TOKEN"
        assert (await worker.call("POST", "/refresh", {})).errcode == "M_BAD_JSON"

        worker.clock.advance(301)
        expired = await worker.call("GET", "/account/whoami", token=third["access_token"])
        assert (expired.status, expired.json["soft_logout"]) == (401, True)


async def test_logout_all_ends_every_session_of_the_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        bob = await worker.register("bob")
        other = await worker.log_in("alice")
        assert (await other.call("GET", "/account/whoami")).status == 200
        assert (await alice.call("POST", "/logout/all")).status == 200
        assert (await other.call("GET", "/account/whoami")).status == 401
        assert (await alice.call("GET", "/account/whoami")).status == 401
        assert (await bob.call("GET", "/account/whoami")).status == 200


async def test_logout_reaches_another_worker_through_the_sessions_stream(postgres: TestDatabase) -> None:
    """Another worker drops the token from its cache when it reads the row of the stream `sessions`."""
    async with client_api(postgres.dsn) as one, client_api(postgres.dsn, name="client_api-2") as two:
        alice = await one.register("alice")
        assert (await two.call("GET", "/account/whoami", token=alice.token)).status == 200
        await alice.call("POST", "/logout")
        cached = await two.call("GET", "/account/whoami", token=alice.token)
        assert cached.status == 200, "this worker has not read the row yet"
        rows = await two.sql("SELECT position, writer, user_id, device_id FROM session_changes")
        two.foundation.authenticator.apply_sessions(
            [SessionRow(position=0, writer=0, user_id=r["user_id"], device_id=r["device_id"]) for r in rows]
        )
        assert (await two.call("GET", "/account/whoami", token=alice.token)).status == 401


async def test_invalid_registrations_are_refused(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        auth = {"type": "m.login.dummy"}
        for name in ("alice\u212a", "a b", "", "ä", "a:b", "x" * 250, "a\x00"):
            body = {"username": name, "password": "correct horse", "auth": auth}
            answer = await worker.call("POST", "/register", body)
            assert (answer.status, answer.errcode) == (400, "M_INVALID_USERNAME"), name
        weak = await worker.call("POST", "/register", {"username": "a", "password": "short", "auth": auth})
        assert weak.errcode == "M_WEAK_PASSWORD"
        none = await worker.call("POST", "/register", {"username": "a", "auth": auth})
        assert none.errcode == "M_MISSING_PARAM"
        odd_bodies: tuple[object, ...] = (
            {"username": 1},
            {"auth": []},
            {"auth": {"type": 1}},
            {"auth": {"session": {}}},
        )
        for odd in odd_bodies:
            assert (await worker.call("POST", "/register", odd)).errcode == "M_BAD_JSON"
        other = await worker.call("POST", "/register", {"auth": {"type": "m.login.recaptcha"}})
        assert (other.status, other.errcode) == (400, "M_UNRECOGNIZED")
        lost = await worker.call("POST", "/register", {"auth": {"session": "nonsense\x00"}})
        assert (lost.status, lost.errcode) == (401, "M_UNKNOWN")
        assert lost.json["session"]
        available = await worker.call("GET", "/register/available", query="username=free")
        assert available.json == {"available": True}
        await worker.register("taken")
        taken = await worker.call("GET", "/register/available", query="username=taken")
        assert (taken.status, taken.errcode) == (400, "M_USER_IN_USE")
        assert (await worker.call("GET", "/register/available")).errcode == "M_MISSING_PARAM"
        quiet = {"username": "quiet", "password": "correct horse", "inhibit_login": True, "auth": auth}
        without_login = await worker.call("POST", "/register", quiet)
        assert "access_token" not in without_login.json
        without_name = await worker.call("POST", "/register", {"password": "correct horse", "auth": auth})
        assert without_name.status == 200
        guest = await worker.call("POST", "/register", {"username": "me"}, query="kind=guest")
        assert guest.status == 200
        whoami = await worker.call("GET", "/account/whoami", token=guest.json["access_token"])
        assert whoami.json["is_guest"] is True
        assert (await worker.call("POST", "/register", {}, query="kind=king")).errcode == "M_INVALID_PARAM"


async def test_uia_session_continues_at_another_worker(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as one, client_api(postgres.dsn, name="client_api-2") as two:
        begun = await one.call("POST", "/register", {"username": "carol", "password": "correct horse"})
        stored = (await one.sql("SELECT request FROM uia_sessions"))[0]["request"]
        assert b"correct horse" not in stored
        auth = {"type": "m.login.dummy", "session": begun.json["session"]}
        made = await two.call("POST", "/register", {"auth": auth})
        assert made.json["user_id"] == "@carol:example.org"
        await one.log_in("carol")


async def test_registration_may_require_a_token(postgres: TestDatabase) -> None:
    config = make_config(registration=Registration(enabled=True, require_token=True))
    async with client_api(postgres.dsn, config) as worker:
        await worker.sql("INSERT INTO registration_tokens (token, uses_allowed) VALUES ('welcome', 1)")
        path = "/_matrix/client/v1/register/m.login.registration_token/validity"
        assert (await worker.call("GET", path, query="token=welcome")).json == {"valid": True}
        assert (await worker.call("GET", path, query="token=no%00")).json == {"valid": False}

        async def register(name: str, auth: dict[str, object]) -> Answer:
            body = {"username": name, "password": "correct horse", "auth": auth}
            return await worker.call("POST", "/register", body)

        dummy = await worker.call("POST", "/register", {"auth": {"type": "m.login.dummy"}})
        assert dummy.errcode == "M_UNRECOGNIZED"
        stage: dict[str, object] = {"type": "m.login.registration_token"}
        for auth, status in (
            (stage, 400),
            ({**stage, "token": 7}, 400),
            ({**stage, "token": "bad"}, 401),
        ):
            assert (await register("dan", auth)).status == status
        assert (await register("dan", {**stage, "token": "welcome"})).status == 200
        assert (await register("eve", {**stage, "token": "welcome"})).status == 401
        assert (await worker.call("GET", path, query="token=welcome")).json == {"valid": False}
    closed = make_config(registration=Registration(enabled=False))
    async with client_api(postgres.dsn, closed, "client_api-3") as worker:
        answer = await worker.call("POST", "/register", {})
        assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        assert (await worker.call("POST", "/register", {}, query="kind=guest")).errcode == "M_FORBIDDEN"


async def test_shared_secret_registers_administrators(postgres: TestDatabase) -> None:
    path = "/_synapse/admin/v1/register"

    async def register(worker: ClientApi, name: str, *, admin: bool, changes: dict[str, object]) -> Answer:
        nonce = (await worker.call("GET", path)).json["nonce"]
        parts = [nonce, name, "correct horse", "admin" if admin else "notadmin"]
        mac = hmac.new(SHARED_SECRET.encode(), "\x00".join(parts).encode(), hashlib.sha1).hexdigest()
        body = {"nonce": nonce, "username": name, "password": "correct horse", "admin": admin, "mac": mac}
        return await worker.call("POST", path, body | changes)

    async with client_api(postgres.dsn) as worker:
        made = await register(worker, "root", admin=True, changes={"displayname": "Root"})
        assert made.status == 200, made.body
        rows = await worker.sql("SELECT is_admin FROM users WHERE user_id = '@root:example.org'")
        assert rows[0]["is_admin"]
        shown = await worker.call("GET", "/profile/@root:example.org")
        assert shown.json == {"displayname": "Root"}
        wrong = await register(worker, "mallory", admin=False, changes={"mac": "0" * 40})
        assert (wrong.status, wrong.errcode) == (403, "M_FORBIDDEN")
        raised = await register(worker, "mallory", admin=False, changes={"admin": True})
        assert raised.errcode == "M_FORBIDDEN"
        stale = await register(worker, "mallory", admin=False, changes={"nonce": "a" * 64})
        assert stale.errcode == "M_UNKNOWN"
        assert (await worker.call("POST", path, {"nonce": 1})).errcode == "M_BAD_JSON"


async def test_login_attempts_are_limited_by_account_and_address(postgres: TestDatabase) -> None:
    limits = RateLimits(**{**dict.fromkeys(_names()), "login": Rate(0.01, 3)})
    async with client_api(postgres.dsn, make_config(rate_limits=limits)) as worker:
        await worker.register("alice")
        body = {"type": "m.login.password", "user": "alice", "password": "wrong"}
        for _ in range(3):
            assert (await worker.call("POST", "/login", body)).status == 403
        # The account is limited for every address, and the address for every account.
        other = await worker.call("POST", "/login", body, address="198.51.100.7")
        assert (other.status, other.errcode) == (429, "M_LIMIT_EXCEEDED")
        assert 0 < other.json["retry_after_ms"] <= 100_000
        assert int(other.headers["retry-after"]) >= 1
        assert (await worker.call("POST", "/login", body | {"user": "bob"})).status == 429


def _names() -> list[str]:
    return list(NO_LIMITS.__dataclass_fields__)


async def test_concurrent_registrations_create_one_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as one, client_api(postgres.dsn, name="client_api-2") as two:
        body = {"username": "race", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        answers = await asyncio.gather(*(w.call("POST", "/register", body) for w in (one, two) * 3))
        assert sorted(answer.status for answer in answers) == [200, 400, 400, 400, 400, 400]
        assert len(await one.sql("SELECT 1 FROM devices")) == 1


async def test_access_token_expires_after_its_lifetime(postgres: TestDatabase) -> None:
    config = make_config(accounts=Accounts(access_token_lifetime_s=60))
    async with client_api(postgres.dsn, config) as worker:
        alice = await worker.register("alice")
        assert (await alice.call("GET", "/account/whoami")).status == 200
        worker.clock.advance(61)
        answer = await alice.call("GET", "/account/whoami")
        assert (answer.status, answer.errcode) == (401, "M_UNKNOWN_TOKEN")
        assert "soft_logout" not in answer.json


async def test_registration_token_is_used_only_as_often_as_allowed(postgres: TestDatabase) -> None:
    config = make_config(registration=Registration(enabled=True, require_token=True))
    async with client_api(postgres.dsn, config) as worker:
        await worker.sql("INSERT INTO registration_tokens (token, uses_allowed) VALUES ('two', 2)")
        auth = {"type": "m.login.registration_token", "token": "two"}
        bodies = [{"username": f"u{n}", "password": "correct horse", "auth": auth} for n in range(6)]
        answers = await asyncio.gather(*(worker.call("POST", "/register", body) for body in bodies))
        assert sorted(answer.status for answer in answers) == [200, 200, 401, 401, 401, 401]
        rows = await worker.sql("SELECT completed FROM registration_tokens")
        assert rows[0]["completed"] == 2
