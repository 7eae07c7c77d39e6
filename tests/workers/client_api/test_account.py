"""Passwords, devices and guests: requests with user-interactive authentication (UIA)."""

import bcrypt
import pytest

from shared.operations.passwords import PasswordHasher
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import User, client_api, password_login


def _auth(user: User, password: str = "correct horse", session: str | None = None) -> dict[str, object]:
    return password_login(user.user_id, password) | ({} if session is None else {"session": session})


async def test_password_change_needs_the_users_own_password_and_ends_other_sessions(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        other = await worker.log_in("alice")
        body: dict[str, object] = {"new_password": "battery staple"}
        begun = await alice.call("POST", "/account/password", body)
        assert begun.status == 401
        assert begun.json["flows"] == [{"stages": ["m.login.password"]}]
        session = begun.json["session"]
        wrong = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, "no", session)})
        assert (wrong.status, wrong.errcode, wrong.json["session"]) == (401, "M_FORBIDDEN", session)
        for path, content in (("/account/password", body), ("/delete_devices", {"devices": [alice.device_id]})):
            own = (await alice.call("POST", path, content)).json["session"]
            others = await alice.call("POST", path, {**content, "auth": _auth(bob, session=own)})
            assert (others.status, others.errcode) == (403, "M_FORBIDDEN"), "another user's password"
        stolen = await bob.call("POST", "/account/password", body | {"auth": _auth(bob, session=session)})
        assert (stolen.status, stolen.errcode) == (403, "M_FORBIDDEN"), "another user's session"
        unknown = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, session="none")})
        assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN")
        done = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, session=session)})
        assert done.json == {}
        assert (await alice.call("GET", "/account/whoami")).status == 200
        assert (await other.call("GET", "/account/whoami")).status == 401
        assert (await worker.call("POST", "/login", password_login("alice"))).errcode == "M_FORBIDDEN"
        third = await worker.log_in("alice", password="battery staple")
        keep = {"new_password": "horse battery", "logout_devices": False, "auth": _auth(alice, "battery staple")}
        assert (await alice.call("POST", "/account/password", keep)).status == 200
        assert (await third.call("GET", "/account/whoami")).status == 200

        weak = await alice.call("POST", "/account/password", {"new_password": "short"})
        assert weak.errcode == "M_WEAK_PASSWORD"
        assert (await alice.call("POST", "/account/password", {"new_password": 1})).errcode == "M_BAD_JSON"
        none = await alice.call("POST", "/account/password", {"auth": _auth(alice, "horse battery")})
        assert none.errcode == "M_MISSING_PARAM"
        assert (await worker.call("POST", "/account/password", body)).errcode == "M_MISSING_TOKEN"


async def test_uia_session_serves_only_the_request_that_began_it(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        begun = await alice.call("POST", "/delete_devices", {"devices": ["OTHER"]})
        session = begun.json["session"]
        changed = {"devices": [alice.device_id], "auth": _auth(alice, session=session)}
        refused = await alice.call("POST", "/delete_devices", changed)
        assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN")
        elsewhere = {"auth": _auth(alice, session=session)}
        other = await alice.call("DELETE", f"/devices/{alice.device_id}", elsewhere)
        assert (other.status, other.errcode) == (403, "M_FORBIDDEN")
        assert (await alice.call("POST", "/delete_devices", {"devices": ["OTHER"], **elsewhere})).json == {}


async def test_devices_are_listed_renamed_and_deleted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice", device_id="A", initial_device_display_name="nul \x00")
        laptop = await worker.log_in("alice", "B")
        await worker.foundation.authenticator.store_last_seen()
        await alice.call("GET", "/account/whoami")
        await worker.foundation.authenticator.store_last_seen()
        devices = (await alice.call("GET", "/devices")).json["devices"]
        assert [device["device_id"] for device in devices] == ["A", "B"]
        assert devices[0]["display_name"] == "nul \x00"
        assert devices[0]["last_seen_ip"] == "192.0.2.1"
        assert devices[1] == {"device_id": "B", "display_name": None, "last_seen_ip": None, "last_seen_ts": None}
        assert (await alice.call("GET", "/devices/B")).json == devices[1]
        assert (await alice.call("PUT", "/devices/B", {"display_name": "Laptop"})).json == {}
        assert (await alice.call("PUT", "/devices/B", {})).json == {}
        assert (await alice.call("GET", "/devices/B")).json["display_name"] == "Laptop"
        for method, path, body, status in (
            ("GET", "/devices/C", None, 404),
            ("GET", "/devices/%00", None, 404),
            ("PUT", "/devices/C", {"display_name": "x"}, 404),
            ("PUT", "/devices/B", {"display_name": "x" * 2000}, 400),
            ("PUT", "/devices/B", {"display_name": 1}, 400),
            ("POST", "/delete_devices", {}, 400),
            ("POST", "/delete_devices", {"devices": "B"}, 400),
        ):
            assert (await alice.call(method, path, body)).status == status, path
        begun = await alice.call("DELETE", "/devices/B")
        assert begun.status == 401
        auth = _auth(alice, session=begun.json["session"])
        assert (await alice.call("DELETE", "/devices/B", {"auth": auth})).json == {}
        assert (await laptop.call("GET", "/account/whoami")).status == 401
        assert (await alice.call("GET", "/devices/B")).status == 404


async def test_imported_bcrypt_password_is_rehashed_at_login(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        await worker.register("old")
        imported = bcrypt.hashpw("pässwörd of old".encode(), bcrypt.gensalt(4)).decode()
        await worker.sql("UPDATE users SET password_hash = $1", imported)
        assert (await worker.call("POST", "/login", password_login("old", "wrong"))).status == 403
        await worker.log_in("old", password="pässwörd of old")
        stored = (await worker.sql("SELECT password_hash FROM users"))[0]["password_hash"]
        assert stored.startswith("$argon2id$")
        await worker.log_in("old", password="pässwörd of old")


async def test_guests_may_set_their_name_but_not_change_their_account(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        guest = await worker.register_guest()
        for method, path, body in (
            ("POST", "/account/password", {}),
            ("PUT", f"/profile/{guest.quoted}/avatar_url", {"avatar_url": "mxc://a/b"}),
            ("PUT", f"/user/{guest.quoted}/account_data/x", {}),
            ("PUT", "/directory/room/%23a:example.org", {"room_id": "!a:example.org"}),
            ("DELETE", f"/devices/{guest.device_id}", {}),
        ):
            answer = await guest.call(method, path, body)
            assert (answer.status, answer.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN"), path
        named = await guest.call("PUT", f"/profile/{guest.quoted}/displayname", {"displayname": "Guest"})
        assert named.status == 200
        assert (await guest.call("GET", "/devices")).status == 200
        assert (await guest.call("POST", "/logout")).status == 200


async def test_guest_becomes_user_with_their_token_and_keeps_the_user_id(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        guest, other = [await worker.register_guest() for _ in range(2)]
        name = guest.user_id[1:].partition(":")[0]
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        user = await worker.register("user")
        for token in ("wrong", other.token, user.token):
            refused = await worker.call("POST", "/register", {**body, "guest_access_token": token})
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), token
        assert (await worker.call("POST", "/register", body)).errcode == "M_USER_IN_USE"
        # The first request holds everything, the second one names only the session.
        begun = await worker.call("POST", "/register", {**body, "guest_access_token": guest.token, "auth": None})
        assert begun.status == 401
        assert guest.token.encode() not in (await worker.sql("SELECT request FROM uia_sessions"))[-1]["request"]
        auth = {"type": "m.login.dummy", "session": begun.json["session"]}
        registered = await worker.call("POST", "/register", {"auth": auth})
        assert registered.json["user_id"] == guest.user_id
        for token in (registered.json["access_token"], guest.token):
            whoami = (await worker.call("GET", "/account/whoami", token=token)).json
            assert (whoami["user_id"], whoami["is_guest"]) == (guest.user_id, False)
        await worker.log_in(name)
        assert (await worker.call("GET", f"/profile/{guest.quoted}")).json == {"displayname": name}
        again = await worker.call("POST", "/register", {**body, "guest_access_token": guest.token})
        assert (again.status, again.errcode) == (403, "M_FORBIDDEN"), "a user's token"


async def test_threepids_and_key_backups_are_empty(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        assert (await alice.call("GET", "/account/3pid")).json == {"threepids": []}
        version = await alice.call("GET", "/room_keys/version")
        assert (version.status, version.errcode) == (404, "M_NOT_FOUND")


async def test_unfinished_registration_costs_no_hash_and_keeps_little(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    hash_password = PasswordHasher.hash

    async def counted(self: PasswordHasher, password: str, asked_by: str) -> str:
        hashed.append(password)
        return await hash_password(self, password, asked_by)

    monkeypatch.setattr(PasswordHasher, "hash", counted)
    async with client_api(postgres.dsn) as worker:
        first = {"username": "carol", "password": "correct horse", "unknown": "x" * 3000}
        begun = await worker.call("POST", "/register", first)
        assert begun.status == 401
        wrong = await worker.call("POST", "/register", {**first, "auth": {"session": begun.json["session"]}})
        assert wrong.status == 401
        assert hashed == []
        stored = (await worker.sql("SELECT request FROM uia_sessions"))[0]["request"]
        assert len(stored) < 300
        assert b"correct horse" not in stored
        large = await worker.call("POST", "/register", {**first, "device_id": "x" * 5000})
        assert (large.status, large.errcode) == (413, "M_TOO_LARGE")
        # The password of the first request counts, as the session remembers it.
        auth = {"type": "m.login.dummy", "session": begun.json["session"]}
        assert (await worker.call("POST", "/register", {"auth": auth})).status == 200
        assert hashed == ["correct horse"]
        await worker.log_in("carol")
