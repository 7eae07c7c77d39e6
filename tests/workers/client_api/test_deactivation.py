"""POST /account/deactivate, and the internal calls that finish closing an account and upgrading a room."""

from typing import Any

import orjson

from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, client_api, password_login
from tests.rigs.requests import SECRET, Answer
from tests.spec_answers import check_answer


async def internal(worker: ClientApi, path: str, body: Any) -> Answer:
    return await worker.call("PUT", path, body, token=SECRET)


async def test_deactivation_ends_all_sessions_and_keeps_the_user_name_taken(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        second = await worker.log_in("alice")
        renewable = await worker.call("POST", "/login", {**password_login("alice"), "refresh_token": True})
        await alice.call("PUT", f"/profile/{alice.quoted}/displayname", {"displayname": "Alice"})
        await alice.call("PUT", f"/user/{alice.quoted}/account_data/org.example", {"a": 1})

        path = "/account/deactivate"
        first = await alice.call("POST", path, {})
        assert (first.status, first.json["flows"]) == (401, [{"stages": ["m.login.password"]}])
        wrong = await alice.call("POST", path, {"auth": password_login("alice", "wrong horse")})
        assert (wrong.status, wrong.errcode) == (401, "M_FORBIDDEN")
        others = await alice.call("POST", path, {"auth": password_login("bob")})
        assert (others.status, others.errcode) == (403, "M_FORBIDDEN")
        assert (await alice.call("POST", path, {"erase": 3, "auth": password_login("alice")})).errcode == "M_BAD_JSON"
        assert (await alice.call("GET", "/account/whoami")).status == 200

        answer = await alice.call("POST", path, {"auth": password_login("alice"), "id_server": "id.example.org"})
        assert answer.status == 200, answer.body
        check_answer("account_deactivation.yaml", "/account/deactivate", "post", answer.json)
        assert answer.json == {"id_server_unbind_result": "success"}
        for device in (alice, second):
            ended = await device.call("GET", "/account/whoami")
            assert (ended.status, ended.errcode) == (401, "M_UNKNOWN_TOKEN")
        login = await worker.call("POST", "/login", password_login("alice"))
        assert (login.status, login.errcode) == (403, "M_USER_DEACTIVATED")
        assert (await bob.call("GET", f"/profile/{alice.quoted}")).status == 404
        name_again = {"username": "alice", "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        again = await worker.call("POST", "/register", name_again)
        assert again.errcode == "M_USER_IN_USE"
        refreshed = await worker.call("POST", "/refresh", {"refresh_token": renewable.json["refresh_token"]})
        assert (refreshed.status, refreshed.errcode) == (401, "M_UNKNOWN_TOKEN")
        for table in ("devices", "access_tokens", "refresh_tokens"):
            assert not await worker.sql(f"SELECT 1 FROM {table} WHERE user_id = $1", alice.user_id), table
        assert not await worker.sql("SELECT 1 FROM erased_users")

        cleared = await internal(worker, f"/_skep/users/{alice.quoted}/closed_account", {"erase": False})
        assert cleared.status == 200, cleared.body
        assert not await worker.sql("SELECT 1 FROM profiles WHERE user_id = $1", alice.user_id)
        assert len(await worker.sql("SELECT 1 FROM account_data WHERE user_id = $1", alice.user_id)) == 1
        assert (await bob.call("GET", "/account/whoami")).status == 200


async def test_erasure_deletes_the_users_data(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await alice.call("PUT", f"/user/{alice.quoted}/account_data/org.example", {"a": 1})
        assert (await alice.call("POST", f"/user/{alice.quoted}/filter", {})).status == 200
        await alice.call("PUT", "/pushrules/global/sender/@bob:example.org", {"actions": []})
        assert await worker.sql("SELECT 1 FROM push_rules")
        before_ms = worker.clock.now_ms()
        answer = await alice.call("POST", "/account/deactivate", {"auth": password_login("alice"), "erase": True})
        assert answer.status == 200, answer.body
        [row] = await worker.sql("SELECT user_id, erased_ms FROM erased_users")
        assert row["user_id"] == alice.user_id and before_ms <= row["erased_ms"] <= worker.clock.now_ms()
        assert [row["erase"] for row in await worker.sql("SELECT erase FROM deactivations")] == [True]
        # Requests that began before may store for a second: the account is cleared up afterwards.
        assert not await worker.sql("SELECT 1 FROM deactivations WHERE look_at < now() + interval '1 second'")
        for _ in range(2):
            path = f"/_skep/users/{alice.quoted}/closed_account"
            assert (await internal(worker, path, {"erase": True})).status == 200
        for table in ("account_data", "filters", "profiles", "push_rules"):
            assert not await worker.sql(f"SELECT 1 FROM {table} WHERE user_id = $1", alice.user_id), table


async def test_deactivation_without_a_token_needs_user_and_password(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        path = "/account/deactivate"
        first = await worker.call("POST", path, {"erase": True})
        assert first.status == 401
        session = first.json["session"]
        nameless = {"type": "m.login.password", "password": "correct horse", "session": session}
        assert (await worker.call("POST", path, {"auth": nameless})).errcode == "M_MISSING_PARAM"
        # A session without a user cannot be used with a token.
        stolen = await bob.call("POST", path, {"auth": {"session": session}})
        assert (stolen.status, stolen.errcode) == (403, "M_FORBIDDEN")
        answer = await worker.call("POST", path, {"auth": {**password_login("alice"), "session": session}})
        assert answer.status == 200, answer.body
        assert (await alice.call("GET", "/account/whoami")).status == 401
        assert (await bob.call("GET", "/account/whoami")).status == 200
        assert [row["user_id"] for row in await worker.sql("SELECT user_id FROM erased_users")] == [alice.user_id]
        refused = await (await worker.register_guest()).call("POST", path, {})
        assert (refused.status, refused.errcode) == (403, "M_GUEST_ACCESS_FORBIDDEN")


async def test_room_settings_are_copied_to_the_successor_once(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        old, new, other = "!old:example.org", "!new:example.org", "!other:example.org"
        user, path = f"/user/{alice.quoted}", f"/_skep/users/{alice.quoted}/room_settings"
        await alice.call("PUT", f"{user}/rooms/{old}/tags/m.favourite", {"order": 0.5})
        await alice.call("PUT", f"{user}/account_data/m.direct", {"@bob:b": [old, other], "@c:c": [other], "x": 1})
        rule = await alice.call("PUT", f"/pushrules/global/room/{old}", {"actions": ["notify"]})
        assert rule.status == 200, rule.body

        async def copied() -> tuple[Any, Any, int]:
            tags = (await alice.call("GET", f"{user}/rooms/{new}/tags")).json["tags"]
            direct = (await alice.call("GET", f"{user}/account_data/m.direct")).json
            rules = (await alice.call("GET", f"/pushrules/global/room/{new}")).status
            return tags, direct, rules

        body = {"old_room_id": old, "new_room_id": new}
        assert (await internal(worker, path, body)).status == 200
        assert (await copied())[0] == {}, "the old room has no successor"
        await worker.sql(
            "INSERT INTO room_upgrades VALUES ($1, $2, '12', '@a:b', '$c', '{}', true, now(), now(), 0)", old, new
        )
        for _ in range(2):
            assert (await internal(worker, path, body)).status == 200
            tags, direct, rules = await copied()
            assert tags == {"m.favourite": {"order": 0.5}}
            assert direct == {"@bob:b": [old, other, new], "@c:c": [other], "x": 1}
            assert rules == 200
        # A later change by the user stays.
        await alice.call("DELETE", f"{user}/rooms/{new}/tags/m.favourite")
        assert (await internal(worker, path, body)).status == 200
        assert (await copied())[0] == {}


async def test_tombstone_from_another_server_names_the_successor(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        pdu = {"type": "m.room.tombstone", "content": {"replacement_room": "!new:b"}}
        await worker.sql("INSERT INTO rooms VALUES (1, '!old:b', '11', '@a:b', false, 1)")
        await worker.sql("INSERT INTO current_state VALUES (1, 'm.room.tombstone', '', 5, 1, 1)")
        await worker.sql(
            """INSERT INTO events (room_nid, event_nid, event_id, writer, position, depth, type, state_key, sender,
                                   origin_server_ts, prev_nids, auth_nids, json)
               VALUES (1, 5, '$t', 1, 1, 1, 'm.room.tombstone', '', '@a:b', 1, '{}', '{}', $1)""",
            orjson.dumps(pdu),
        )
        user, path = f"/user/{alice.quoted}", f"/_skep/users/{alice.quoted}/room_settings"
        await alice.call("PUT", f"{user}/rooms/!old:b/tags/u.x", {})
        copied: tuple[tuple[str, dict[str, Any]], ...] = (("!false:b", {}), ("!new:b", {"u.x": {}}))
        for new, tags in copied:
            assert (await internal(worker, path, {"old_room_id": "!old:b", "new_room_id": new})).status == 200
            assert (await alice.call("GET", f"{user}/rooms/{new}/tags")).json["tags"] == tags
