"""Keys of devices over HTTP: upload, query, claim, changes, and their deletion with the device."""

import asyncio
from typing import Any

import pytest

from replication.streams import DEVICE_LISTS, ONE_TIME_KEYS
from shared.core.identifiers import RoomId, UserId
from shared.core.sync_tokens.vector import Vector, format_vector
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import User, client_api, password_login
from tests.workers.client_api.keys import (
    ALGORITHM,
    claim,
    identity_keys,
    one_time_key,
    one_time_keys,
    upload,
    upload_identity,
)
from tests.workers.client_api.rooms import put_room
from workers.client_api.encryption.device_keys import MAX_ONE_TIME_KEYS


async def test_uploaded_device_keys_are_returned_and_announced(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await alice.call("PUT", f"/devices/{alice.device_id}", {"display_name": "a phone"})
        keys = identity_keys(alice.user_id, alice.device_id)
        first = await upload(alice, device_keys={**keys, "unsigned": {"x": 1}}, one_time_keys=one_time_keys("a", "b"))
        assert first.json == {"one_time_key_counts": {ALGORITHM: 2}}
        wanted: dict[str, list[str]] = {
            alice.user_id: [],
            bob.user_id: [],
            "@nobody:example.org": [],
            "@far:away.example:8448": [],
        }
        found = (await bob.call("POST", "/keys/query", {"device_keys": wanted, "timeout": 10})).json
        shown = {**keys, "unsigned": {"device_display_name": "a phone"}}
        assert found["device_keys"] == {alice.user_id: {alice.device_id: shown}, bob.user_id: {}}
        assert set(found["failures"]) == {"away.example:8448"}
        for devices, expected in (([alice.device_id], True), (["OTHER"], False)):
            one = await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: devices}})
            assert (alice.device_id in one.json["device_keys"][alice.user_id]) is expected
        # Equal keys change nothing, and nothing is announced.
        again = await upload(alice, device_keys=keys, one_time_keys=one_time_keys("a"))
        assert again.json == {"one_time_key_counts": {ALGORITHM: 2}}
        renamed, uploaded = worker.bus.rows(DEVICE_LISTS)
        assert renamed.user_id == uploaded.user_id == alice.user_id
        # Further signatures are a change.
        more = {**keys, "signatures": {alice.user_id: {f"ed25519:{alice.device_id}": "s", "ed25519:M": "t"}}}
        assert (await upload(alice, device_keys=more)).status == 200
        assert len(worker.bus.rows(DEVICE_LISTS)) == 3
        # Others see a device's name beside its keys, so a new name is a change.
        for _ in range(2):
            await alice.call("PUT", f"/devices/{alice.device_id}", {"display_name": "a laptop"})
            assert len(worker.bus.rows(DEVICE_LISTS)) == 4
        found = (await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: []}})).json
        shown = found["device_keys"][alice.user_id][alice.device_id]
        assert shown["unsigned"] == {"device_display_name": "a laptop"}


async def test_device_list_changes_are_announced_before_a_device_has_keys(postgres: TestDatabase) -> None:
    """A log-in, a new name and a log-out are changes of the list that other devices and users show."""
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        await worker.log_in("alice", "NEW")
        assert [row.user_id for row in worker.bus.rows(DEVICE_LISTS)] == [alice.user_id]
        second = await worker.log_in("alice", "NEW")
        assert len(worker.bus.rows(DEVICE_LISTS)) == 1, "the device existed before"
        await alice.call("PUT", "/devices/NEW", {"display_name": "new"})
        assert len(worker.bus.rows(DEVICE_LISTS)) == 2
        assert (await second.call("POST", "/logout", {})).status == 200
        assert [row.user_id for row in worker.bus.rows(DEVICE_LISTS)] == [alice.user_id] * 3


async def test_new_identity_keys_drop_the_keys_of_the_old_ones(postgres: TestDatabase) -> None:
    """A bot that lost its store logs in with its old device id. The specification allows new keys then."""
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        await upload_identity(alice)
        await upload(alice, one_time_keys=one_time_keys("a", "b"), fallback_keys={f"{ALGORITHM}:f": one_time_key("f")})
        assert await claim(bob, alice) == "a"
        lists, keys = len(worker.bus.rows(DEVICE_LISTS)), len(worker.bus.rows(ONE_TIME_KEYS))
        new = identity_keys(alice.user_id, alice.device_id, "new")
        changed = {f"{ALGORITHM}:a": one_time_key("another content of a used id"), **one_time_keys("c")}
        answer = await upload(alice, device_keys=new, one_time_keys=changed)
        assert answer.json == {"one_time_key_counts": {ALGORITHM: 2}}
        found = (await bob.call("POST", "/keys/query", {"device_keys": {alice.user_id: []}})).json
        assert found["device_keys"][alice.user_id][alice.device_id]["keys"] == new["keys"]
        assert len(worker.bus.rows(DEVICE_LISTS)) == lists + 1
        assert len(worker.bus.rows(ONE_TIME_KEYS)) == keys + 2
        assert {await claim(bob, alice), await claim(bob, alice)} == {"a", "c"}
        assert await claim(bob, alice) is None, "neither the old one-time key nor the old fallback key is left"
        # Concurrent uploads all succeed, and the last one remains.
        many = [identity_keys(alice.user_id, alice.device_id, str(n)) for n in range(12)]
        answers = await asyncio.gather(*(upload(alice, device_keys=each) for each in many))
        assert {answer.status for answer in answers} == {200}


async def test_one_time_keys_are_claimed_once_in_upload_order(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker, client_api(postgres.dsn, name="client_api-2") as second:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for start in range(0, 30, 10):
            names = [f"{10 + start + n}" for n in range(10)]
            assert (await upload(alice, one_time_keys=one_time_keys(*names))).status == 200
        fallback = {f"{ALGORITHM}:spare": {**one_time_key("spare"), "fallback": True}}
        assert (await upload(alice, fallback_keys=fallback)).status == 200
        bob_elsewhere = User(second, bob.user_id, bob.token, bob.device_id)
        batches = []
        for _ in range(3):
            claims = [claim(by, alice) for by in (bob, bob_elsewhere) for _ in range(5)]
            batches.append(sorted(str(key) for key in await asyncio.gather(*claims)))
        assert batches == [[f"{10 + start + n}" for n in range(10)] for start in range(0, 30, 10)]
        assert [await claim(bob, alice), await claim(bob_elsewhere, alice)] == ["spare", "spare"]
        assert await claim(bob, alice, "other_algorithm") is None
        used = await worker.sql("SELECT used FROM fallback_keys")
        assert [row["used"] for row in used] == [True]
        # 4 uploads, 30 claimed keys, and the fallback key marked as used once
        rows = worker.bus.rows(ONE_TIME_KEYS) + second.bus.rows(ONE_TIME_KEYS)
        assert len(rows) == 4 + 30 + 1
        assert {(row.user_id, row.device_id) for row in rows} == {(alice.user_id, alice.device_id)}
        # The same fallback key stays used, a new one is unused.
        await upload(alice, fallback_keys=fallback)
        assert [row["used"] for row in await worker.sql("SELECT used FROM fallback_keys")] == [True]
        await upload(alice, fallback_keys={f"{ALGORITHM}:new": one_time_key("new")})
        stored = await worker.sql("SELECT key_id, used FROM fallback_keys")
        assert [(row["key_id"], row["used"]) for row in stored] == [("new", False)]


async def test_one_time_key_id_never_gets_another_content(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        assert (await upload(alice, one_time_keys=one_time_keys("a"))).status == 200
        changed = {f"{ALGORITHM}:a": one_time_key("another"), **one_time_keys("b")}
        for claimed in (False, True):
            if claimed:
                assert await claim(bob, alice) == "a"
            refused = await upload(alice, one_time_keys=changed)
            assert (refused.status, refused.errcode) == (400, "M_INVALID_PARAM")
            same = await upload(alice, one_time_keys=one_time_keys("a"))
            assert same.json == {"one_time_key_counts": {ALGORITHM: 0 if claimed else 1}}
        assert await claim(bob, alice) is None, 'the claimed key is gone, "b" was never stored'
        # Of two concurrent uploads with different contents one is refused.
        contents: list[Any] = [{f"{ALGORITHM}:c": one_time_key(text)} for text in ("one", "two")]
        answers = await asyncio.gather(*(upload(alice, one_time_keys=each) for each in contents))
        assert sorted(answer.status for answer in answers) == [200, 400]


async def test_deleted_device_loses_its_keys_and_messages(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        second = await worker.log_in("alice", "SECOND")
        for device in (alice, second):
            await upload_identity(device)
            await upload(device, one_time_keys=one_time_keys("a"), fallback_keys={"x:y": "plain"})
            messages: dict[str, Any] = {alice.user_id: {device.device_id: {}}}
            await bob.call("PUT", f"/sendToDevice/m.x/{device.device_id}", {"messages": messages})
        before = len(worker.bus.rows(DEVICE_LISTS))
        assert (await alice.call("DELETE", "/devices/SECOND", {"auth": password_login("alice")})).status == 200
        assert len(worker.bus.rows(DEVICE_LISTS)) == before + 1
        tables = ("device_keys", "one_time_keys", "fallback_keys", "to_device_messages")
        for table in tables:
            rows = await worker.sql(f"SELECT device_id FROM {table} WHERE user_id = $1", alice.user_id)
            assert [row["device_id"] for row in rows] == [alice.device_id], table
        assert await claim(bob, second) is None
        assert (await alice.call("POST", "/logout/all", {})).status == 200
        assert len(worker.bus.rows(DEVICE_LISTS)) == before + 2
        for table in tables:
            assert not await worker.sql(f"SELECT 1 FROM {table} WHERE user_id = $1", alice.user_id), table


def _hostile_uploads(user_id: UserId, device_id: str) -> list[tuple[dict[str, Any], str]]:
    keys = identity_keys(user_id, device_id)
    without_own = {**keys, "keys": {"ed25519:OTHER": "k"}}
    return [
        ({"device_keys": {**keys, "user_id": "@other:example.org"}}, "M_INVALID_PARAM"),
        ({"device_keys": {**keys, "device_id": "OTHER"}}, "M_INVALID_PARAM"),
        ({"device_keys": without_own}, "M_INVALID_PARAM"),
        ({"device_keys": {**keys, "padding": "x" * 70_000}}, "M_INVALID_PARAM"),
        ({"device_keys": {}}, "M_BAD_JSON"),
        ({"device_keys": []}, "M_BAD_JSON"),
        ({"device_keys": {**keys, "keys": {"ed25519:x": 7}}}, "M_BAD_JSON"),
        ({"device_keys": {**keys, "signatures": {user_id: "x"}}}, "M_BAD_JSON"),
        ({"one_time_keys": {"nocolon": "x"}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {":a": "x"}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {"a:": "x"}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {"a:" + "b" * 256: "x"}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {"a:b": None}}, "M_BAD_JSON"),
        ({"one_time_keys": {"a:b": {"key": {}}}}, "M_BAD_JSON"),
        ({"one_time_keys": {"a:b": {"key": "x", "more": "y" * 5_000}}}, "M_INVALID_PARAM"),
        ({"one_time_keys": {f"a:{n}": "x" for n in range(501)}}, "M_INVALID_PARAM"),
        ({"one_time_keys": ["a:b"]}, "M_BAD_JSON"),
        ({"fallback_keys": {"a:b": "x", "a:c": "y"}}, "M_INVALID_PARAM"),
        ({"fallback_keys": 7}, "M_BAD_JSON"),
    ]


async def test_malformed_keys_are_refused(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for body, errcode in _hostile_uploads(alice.user_id, alice.device_id):
            answer = await alice.call("POST", "/keys/upload", body)
            assert (answer.status, answer.errcode) == (400, errcode), body
        # NUL is legal in Matrix, though PostgreSQL's text cannot hold it.
        odd = await upload(alice, one_time_keys={"a\x00:b\x1a": "x"}, fallback_keys={"a\x00:f\x00": "y"})
        assert odd.json == {"one_time_key_counts": {ALGORITHM: 0, "a\x00": 1}}
        for key_id in ("b\x1a", "f\x00"):
            assert await claim(alice, alice, "a\x00") == key_id
        bodies: list[Any] = [{}, [], {"device_keys": []}, {"device_keys": {"x": []}}, {"device_keys": {"@a:b": 7}}]
        for body in bodies:
            assert (await alice.call("POST", "/keys/query", body)).status == 400, body
        bodies = [{}, {"one_time_keys": 7}, {"one_time_keys": {"@a:b": []}}, {"one_time_keys": {"a": {}}}]
        for body in bodies:
            assert (await alice.call("POST", "/keys/claim", body)).status == 400, body
        nul = {"one_time_keys": {alice.user_id: {"D\x00": "a"}, "@x:far": {"D": "a"}}}
        claimed = (await alice.call("POST", "/keys/claim", nul)).json
        assert claimed["one_time_keys"] == {} and set(claimed["failures"]) == {"far"}
        assert not await worker.sql("SELECT 1 FROM device_list_changes")


async def test_one_time_keys_of_a_device_are_limited(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for start in range(0, MAX_ONE_TIME_KEYS, 500):
            keys = {f"a:{start + n}": "x" for n in range(500)}
            assert (await upload(alice, one_time_keys=keys)).status == 200
        assert (await upload(alice, one_time_keys={"b:1": "x"})).errcode == "M_INVALID_PARAM"
        assert await claim(alice, alice, "a") is not None
        assert (await upload(alice, one_time_keys={"b:1": "x"})).status == 200


async def _changes(user: Any, since: str, to: str | None = None) -> Any:
    return await user.call("GET", "/keys/changes", query=f"from={since}&to={to or since}")


async def test_keys_changes_lists_users_in_shared_rooms(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob, carol = [await worker.register(name) for name in ("alice", "bob", "carol")]
        await put_room(worker, RoomId("!r:example.org"), {alice.user_id: "join", bob.user_id: "join"})
        lease = worker.foundation.lease
        await worker.sql("SELECT setval('stream_events', 1)")

        def token(lists: int) -> str:
            return f"s1_e{format_vector(Vector(lease, 1))}_d{format_vector(Vector(lease, lists))}"

        await upload_identity(bob)
        await upload_identity(carol)
        [first, second] = [row.position for row in worker.bus.rows(DEVICE_LISTS)]
        assert (await _changes(alice, token(first - 1), token(second))).json == {
            "changed": [bob.user_id],
            "left": [],
        }
        assert (await _changes(alice, token(second))).json == {"changed": [], "left": []}
        assert (await _changes(carol, token(second - 1))).json["changed"] == [carol.user_id]
        for bad in ("x", token(second + 5), "s1_e99999.1"):
            assert (await _changes(alice, bad)).errcode == "M_INVALID_PARAM"
            assert (await _changes(alice, token(second), bad)).errcode == "M_INVALID_PARAM"
        assert (await alice.call("GET", "/keys/changes")).errcode == "M_MISSING_PARAM"
        # For a token from before the stored changes, all users in shared rooms count as changed.
        await worker.sql("DELETE FROM device_list_changes WHERE position < $1", second)
        all_users = await _changes(alice, token(first - 1))
        assert all_users.json["changed"] == [alice.user_id, bob.user_id]


@pytest.mark.parametrize("where", ["query", "claim"])
async def test_query_or_claim_for_too_many_users_is_refused(postgres: TestDatabase, where: str) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        users: dict[str, Any] = {
            f"@long-user-name-{n}:example.org": [] if where == "query" else {} for n in range(10_001)
        }
        body = {"device_keys" if where == "query" else "one_time_keys": users}
        assert (await alice.call("POST", f"/keys/{where}", body)).errcode == "M_INVALID_PARAM"
