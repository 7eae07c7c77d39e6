"""Passwords and devices: what asks for user-interactive authentication."""

import bcrypt

from tests.fix_servers import TestDatabase
from tests.rigs.client_api import User, client_api


def _auth(user: User, password: str = "correct horse", session: str | None = None) -> dict[str, object]:
    identifier = {"type": "m.id.user", "user": user.user_id}
    auth: dict[str, object] = {"type": "m.login.password", "identifier": identifier, "password": password}
    return auth | ({"session": session} if session is not None else {})


async def test_password_change(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        login = {"type": "m.login.password", "user": "alice", "password": "correct horse"}
        other = (await worker.call("POST", "/login", login)).json["access_token"]
        body: dict[str, object] = {"new_password": "battery staple"}
        begun = await alice.call("POST", "/account/password", body)
        assert begun.status == 401
        assert begun.json["flows"] == [{"stages": ["m.login.password"]}]
        session = begun.json["session"]
        wrong = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, "no", session)})
        assert (wrong.status, wrong.errcode, wrong.json["session"]) == (401, "M_FORBIDDEN", session)
        for path, asked in (("/account/password", body), ("/delete_devices", {"devices": [alice.device_id]})):
            own = (await alice.call("POST", path, asked)).json["session"]
            others = await alice.call("POST", path, {**asked, "auth": _auth(bob, session=own)})
            assert (others.status, others.errcode) == (403, "M_FORBIDDEN"), "the password of another user"
        stolen = await bob.call("POST", "/account/password", body | {"auth": _auth(bob, session=session)})
        assert (stolen.status, stolen.errcode) == (403, "M_FORBIDDEN"), "the session of another user"
        unknown = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, session="none")})
        assert (unknown.status, unknown.errcode) == (401, "M_UNKNOWN")
        done = await alice.call("POST", "/account/password", body | {"auth": _auth(alice, session=session)})
        assert done.json == {}
        assert (await alice.call("GET", "/account/whoami")).status == 200
        assert (await worker.call("GET", "/account/whoami", token=other)).status == 401
        assert (await worker.call("POST", "/login", login)).errcode == "M_FORBIDDEN"
        login["password"] = "battery staple"
        third = (await worker.call("POST", "/login", login)).json["access_token"]
        keep = {
            "new_password": "horse battery",
            "logout_devices": False,
            "auth": _auth(alice, "battery staple"),
        }
        assert (await alice.call("POST", "/account/password", keep)).status == 200
        assert (await worker.call("GET", "/account/whoami", token=third)).status == 200

        weak = await alice.call("POST", "/account/password", {"new_password": "short"})
        assert weak.errcode == "M_WEAK_PASSWORD"
        assert (await alice.call("POST", "/account/password", {"new_password": 1})).errcode == "M_BAD_JSON"
        none = await alice.call("POST", "/account/password", {"auth": _auth(alice, "horse battery")})
        assert none.errcode == "M_MISSING_PARAM"
        assert (await worker.call("POST", "/account/password", body)).errcode == "M_MISSING_TOKEN"


async def test_the_authenticated_request_is_the_one_that_is_carried_out(postgres: TestDatabase) -> None:
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
        # The rest of the request may be left out: it is kept with the session.
        assert (await alice.call("POST", "/delete_devices", {"devices": ["OTHER"], **elsewhere})).json == {}


async def test_devices(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice", device_id="A", initial_device_display_name="nul \x00")
        login = {
            "type": "m.login.password",
            "user": "alice",
            "password": "correct horse",
            "device_id": "B",
        }
        token = (await worker.call("POST", "/login", login)).json["access_token"]
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
        assert (await worker.call("GET", "/account/whoami", token=token)).status == 401
        assert (await alice.call("GET", "/devices/B")).status == 404


async def test_imported_bcrypt_password(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        await worker.register("old")
        imported = bcrypt.hashpw("pässwörd of old".encode(), bcrypt.gensalt(4)).decode()
        await worker.sql("UPDATE users SET password_hash = $1", imported)
        login = {"type": "m.login.password", "user": "old", "password": "wrong"}
        assert (await worker.call("POST", "/login", login)).status == 403
        login["password"] = "pässwörd of old"
        assert (await worker.call("POST", "/login", login)).status == 200
        stored = (await worker.sql("SELECT password_hash FROM users"))[0]["password_hash"]
        assert stored.startswith("$argon2id$")
        assert (await worker.call("POST", "/login", login)).status == 200


async def test_guests(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        made = (await worker.call("POST", "/register", {}, query="kind=guest")).json
        guest = User(worker, made["user_id"], made["access_token"], made["device_id"])
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
        guests = []
        for _ in range(2):
            made = (await worker.call("POST", "/register", {}, query="kind=guest")).json
            guests.append(User(worker, made["user_id"], made["access_token"], made["device_id"]))
        guest, other = guests
        name = guest.user_id[1:].partition(":")[0]
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        user = await worker.register("user")
        for token in ("wrong", other.token, user.token):
            refused = await worker.call("POST", "/register", {**body, "guest_access_token": token})
            assert (refused.status, refused.errcode) == (403, "M_FORBIDDEN"), token
        assert (await worker.call("POST", "/register", body)).errcode == "M_USER_IN_USE"
        # The first request names everything, the second one only the session.
        begun = await worker.call("POST", "/register", {**body, "guest_access_token": guest.token, "auth": None})
        assert begun.status == 401
        assert guest.token.encode() not in (await worker.sql("SELECT request FROM uia_sessions"))[-1]["request"]
        auth = {"type": "m.login.dummy", "session": begun.json["session"]}
        made = await worker.call("POST", "/register", {"auth": auth})
        assert made.json["user_id"] == guest.user_id
        for token in (made.json["access_token"], guest.token):
            who = (await worker.call("GET", "/account/whoami", token=token)).json
            assert (who["user_id"], who["is_guest"]) == (guest.user_id, False)
        login = {"type": "m.login.password", "user": name, "password": "correct horse"}
        assert (await worker.call("POST", "/login", login)).status == 200
        assert (await worker.call("GET", f"/profile/{guest.quoted}")).json == {"displayname": name}
        again = await worker.call("POST", "/register", {**body, "guest_access_token": guest.token})
        assert (again.status, again.errcode) == (403, "M_FORBIDDEN"), "a user's token"


async def test_what_is_not_served_yet_is_empty(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        assert (await alice.call("GET", "/account/3pid")).json == {"threepids": []}
        version = await alice.call("GET", "/room_keys/version")
        assert (version.status, version.errcode) == (404, "M_NOT_FOUND")
