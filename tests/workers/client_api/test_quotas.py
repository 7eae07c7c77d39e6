"""Quotas: each refuses only what exceeds it, and lets users shrink what they have."""

import asyncio
import hashlib
from typing import Any

import pytest

from shared.config.sections import Config, Quotas
from shared.core.delayed_events import DelayedEvent
from shared.core.identifiers import EventId, RoomId, UserId
from shared.storage.engine.fenced import ALL_STATEMENTS
from shared.storage.events.delayed import finalise_delayed_event, schedule_delayed_event
from shared.storage.removal.delete_room import RowsOfRoom
from shared.storage.user_data.account_data import store_filter
from shared.storage.user_data.usage import get_usage
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api, make_config
from tests.rigs.requests import Answer
from tests.workers.client_api.rooms import put_room

_DATA = "/user/{}/account_data/{}"


def _config(**quotas: int) -> Config:
    return make_config(quotas=Quotas(**quotas))


def _is_refused(answer: Answer) -> bool:
    """Check that the answer is the spec's error for a limit of the user, and return True."""
    assert (answer.status, answer.json["errcode"]) == (403, "M_USER_LIMIT_EXCEEDED"), answer.body
    assert answer.json["info_uri"].startswith("http")
    return True


async def _put(user: User, type_: str, text: str) -> Answer:
    return await user.call("PUT", _DATA.format(user.quoted, type_), {"text": text})


async def _counted(worker: ClientApi, user: User) -> tuple[int, int]:
    """Return the running total of account data, and the true one."""
    [row] = await worker.sql("SELECT account_data_bytes FROM user_usage WHERE user_id = $1", user.user_id)
    true = await get_usage(worker.foundation.database, UserId(user.user_id))
    return row["account_data_bytes"], true.account_data_bytes


async def test_account_data_is_limited_per_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(account_data_bytes=10_000)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for number in range(4):
            assert (await _put(alice, f"m.{number}", "x" * 2000)).status == 200
        assert _is_refused(await _put(alice, "m.more", "x" * 2000))
        assert (await alice.call("GET", _DATA.format(alice.quoted, "m.more"))).status == 404
        assert (await _put(bob, "m.more", "x" * 2000)).status == 200
        # An entry may shrink, and its place be used.
        assert _is_refused(await _put(alice, "m.0", "x" * 9000))
        assert (await _put(alice, "m.0", "y")).status == 200
        assert (await _put(alice, "m.more", "x" * 2000)).status == 200
        room = f"/user/{alice.quoted}/rooms/!r:example.org"
        assert _is_refused(await alice.call("PUT", f"{room}/account_data/m.x", {"text": "x" * 2000}))
        assert _is_refused(await alice.call("PUT", f"{room}/tags/u.work", {"order": 1, "text": "x" * 2000}))
        ignored: dict[str, Any] = {f"@user{number:060}:example.org": {} for number in range(20)}
        path = _DATA.format(alice.quoted, "m.ignored_user_list")
        assert _is_refused(await alice.call("PUT", path, {"ignored_users": ignored}))
        assert (await alice.call("PUT", path, {"ignored_users": {"@u:example.org": {}}})).status == 200
        running, true = await _counted(worker, alice)
        assert running == true <= 10_000
        refused = worker.foundation.registry.get_sample_value(
            "skep_quota_refused_total", {"quota": "account_data_bytes"}
        )
        assert refused == 5


async def test_small_entries_count_too_and_deleted_ones_stay_counted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(account_data_bytes=5_000)) as worker:
        alice = await worker.register("alice")
        answers = [await alice.call("PUT", _DATA.format(alice.quoted, f"m.{number}"), {}) for number in range(40)]
        stored = [answer.status for answer in answers].count(200)
        assert 15 < stored < 25
        assert _is_refused(answers[-1])


async def test_data_from_before_the_quota_is_counted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(account_data_bytes=10_000)) as worker:
        alice = await worker.register("alice")
        assert (await _put(alice, "m.old", "x" * 8000)).status == 200
        await worker.sql("DELETE FROM user_usage")
        assert _is_refused(await _put(alice, "m.new", "x" * 2000))
        assert (await _put(alice, "m.new", "x" * 100)).status == 200
        running, true = await _counted(worker, alice)
        assert running == true


async def test_concurrent_writes_are_counted_exactly(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(account_data_bytes=20_000)) as worker:
        alice = await worker.register("alice")
        answers = await asyncio.gather(*(_put(alice, f"m.{number % 7}", "x" * 300 * number) for number in range(20)))
        assert {answer.status for answer in answers} <= {200, 403}
        running, true = await _counted(worker, alice)
        assert running == true <= 20_000


async def test_filters_are_limited_per_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(filters_bytes=4_000)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")

        async def store(user: User, number: int) -> Answer:
            types = [f"m.{number}." + "x" * 400]
            return await user.call("POST", f"/user/{user.quoted}/filter", {"room": {"timeline": {"types": types}}})

        answers = [await store(alice, number) for number in range(8)]
        stored = [answer.status for answer in answers].count(200)
        assert stored == 6 and _is_refused(answers[-1])
        # One that is known takes nothing more.
        assert (await store(alice, 0)).json == answers[0].json
        assert (await store(bob, 0)).status == 200
        # Filters without a running total, from before quotas, are counted.
        await worker.sql("UPDATE filters SET total_bytes = NULL")
        assert _is_refused(await store(alice, 9))
        used = await get_usage(worker.foundation.database, UserId(alice.user_id))
        assert 3_000 < used.filters_bytes <= 4_000
        big = b"{}" + b" " * 5000
        digest = hashlib.sha256(big).digest()
        assert await store_filter(worker.foundation.database, UserId("@new:x"), digest, big, 4_000) is None


async def test_devices_are_limited_per_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(devices=3)) as worker:
        alice = await worker.register("alice", device_id="D0")
        await worker.log_in("alice", "D1")
        second = await worker.log_in("alice", "D2")
        body = {"type": "m.login.password", "identifier": {"type": "m.id.user", "user": "alice"}}
        body["password"] = "correct horse"
        assert _is_refused(await worker.call("POST", "/login", body))
        assert _is_refused(await worker.call("POST", "/login", body | {"device_id": "D3"}))
        await worker.log_in("alice", "D1")  # a device that is known
        assert (await second.call("POST", "/logout", {})).status == 200
        await worker.log_in("alice", "D3")
        assert (await alice.call("GET", "/devices")).status == 200


def _one_time(numbers: range, text: str = "k") -> dict[str, Any]:
    return {f"signed_curve25519:K{number}": {"key": f"{number}{text}"} for number in numbers}


async def test_keys_of_a_device_are_limited_by_bytes(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(device_keys_bytes=5_000)) as worker:
        alice = await worker.register("alice")
        assert (
            await alice.call("POST", "/keys/upload", {"one_time_keys": _one_time(range(5), "k" * 500)})
        ).status == 200
        heavy = await alice.call("POST", "/keys/upload", {"one_time_keys": _one_time(range(5, 10), "k" * 500)})
        assert _is_refused(heavy)
        assert (await alice.call("POST", "/keys/upload", {"one_time_keys": _one_time(range(5, 6))})).status == 200


async def test_fallback_keys_of_invented_algorithms_are_limited(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        for start in (0, 10):
            keys = {f"a{number}:K": {"key": "k"} for number in range(start, start + 10)}
            assert (await alice.call("POST", "/keys/upload", {"fallback_keys": keys})).status == 200
        more = await alice.call("POST", "/keys/upload", {"fallback_keys": {"b:K": {"key": "k"}}})
        assert (more.status, more.json["errcode"]) == (400, "M_INVALID_PARAM")
        assert (await alice.call("POST", "/keys/upload", {"fallback_keys": {"a3:L": {"key": "l"}}})).status == 200


async def test_keys_cannot_be_used_up_without_end(postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.client_api.encryption.device_keys._MAX_STORED_KEYS", 8)
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        claim = {"one_time_keys": {alice.user_id: {alice.device_id: "signed_curve25519"}}}
        for number in range(9):
            keys = _one_time(range(number, number + 1))
            assert (await alice.call("POST", "/keys/upload", {"one_time_keys": keys})).status == 200
            assert (await alice.call("POST", "/keys/claim", claim)).status == 200
        assert _is_refused(await alice.call("POST", "/keys/upload", {"one_time_keys": _one_time(range(50, 51))}))


async def _send(sender: User, recipient: User, number: int, size: int, device: str = "*") -> Answer:
    messages = {recipient.user_id: {device: {"text": "x" * size}}}
    return await sender.call("PUT", f"/sendToDevice/m.x/{sender.user_id[1:3]}{number}", {"messages": messages})


async def _inbox_bytes(worker: ClientApi, user: User) -> int:
    return (await get_usage(worker.foundation.database, UserId(user.user_id))).inbox_bytes


async def test_one_sender_does_not_fill_an_inbox(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(inbox_bytes=40_000)) as worker:
        mallory, alice, bob = [await worker.register(name) for name in ("mallory", "alice", "bob")]
        answers = [await _send(mallory, bob, number, 2000) for number in range(15)]
        assert _is_refused(answers[-1])
        assert 20_000 < await _inbox_bytes(worker, bob) < 23_000
        # Others still reach the device, each with a share.
        for number in range(2):
            assert (await _send(alice, bob, number, 2000)).status == 200
        assert _is_refused(await _send(alice, bob, 5, 2000))
        assert await _inbox_bytes(worker, bob) < 40_000
        # A refused message is not remembered as sent, and goes through once the inbox is read.
        await worker.sql("DELETE FROM to_device_messages WHERE sender = $1", mallory.user_id)
        assert (await _send(alice, bob, 5, 2000)).status == 200
        assert (await _send(mallory, bob, 40, 2000)).status == 200


async def test_running_total_follows_what_is_read(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(inbox_bytes=40_000)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for number in range(60):
            assert (await _send(alice, bob, number, 3000)).status == 200
            if number % 5 == 4:  # the device reads all but the last
                await worker.sql(
                    "DELETE FROM to_device_messages WHERE user_id = $1 AND position <"
                    " (SELECT max(position) FROM to_device_messages WHERE user_id = $1)",
                    bob.user_id,
                )
        [row] = await worker.sql(
            "SELECT max(inbox_bytes) - min(inbox_bytes) AS used FROM to_device_messages WHERE user_id = $1", bob.user_id
        )
        assert row["used"] + 3220 >= await _inbox_bytes(worker, bob) > 0


async def test_messages_from_before_the_quota_are_counted(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(inbox_bytes=40_000)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for number in range(7):
            assert (await _send(alice, bob, number, 3000)).status == 200
        await worker.sql("UPDATE to_device_messages SET inbox_bytes = NULL")
        assert _is_refused(await _send(alice, bob, 20, 3000))
        carol = await worker.register("carol")
        assert (await _send(carol, bob, 1, 1000)).status == 200
        assert _is_refused(await _send(alice, bob, 21, 3000))


async def test_full_inbox_of_one_device_does_not_keep_messages_from_others(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(inbox_bytes=40_000)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob", device_id="OLD")
        for number in range(8):
            await _send(alice, bob, number, 3000, "OLD")
        new = await worker.log_in("bob", "NEW")
        assert (await _send(alice, bob, 30, 3000)).status == 200
        rows = await worker.sql("SELECT content FROM to_device_messages WHERE device_id = 'NEW'")
        assert len(rows) == 1 and new.user_id == bob.user_id
        refused = worker.foundation.registry.get_sample_value("skep_quota_refused_total", {"quota": "inbox_bytes"})
        assert refused is not None and refused >= 1


async def test_bytes_that_a_user_sends_to_devices_are_limited(postgres: TestDatabase) -> None:
    quotas = {"sent_to_devices_bytes_per_s": 1, "sent_to_devices_burst_bytes": 100_000}
    async with client_api(postgres.dsn, _config(**quotas)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        for number in range(3):
            await worker.log_in("bob", f"D{number}")
        for number in range(2):  # to four devices, 15 KB each
            assert (await _send(alice, bob, number, 15_000)).status == 200
        refused = await _send(alice, bob, 3, 10)
        assert (refused.status, refused.json["errcode"]) == (429, "M_LIMIT_EXCEEDED")
        assert refused.json["retry_after_ms"] > 10_000_000
        assert (await _send(bob, alice, 1, 10)).status == 200


async def test_aliases_are_limited_per_user(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(aliases=2)) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        room = await put_room(worker, RoomId("!r:example.org"), dict.fromkeys((alice.user_id, bob.user_id), "join"))

        async def create(user: User, name: str) -> Answer:
            return await user.call("PUT", f"/directory/room/%23{name}:example.org", {"room_id": room.room_id})

        for name in ("one", "two"):
            assert (await create(alice, name)).status == 200
        assert _is_refused(await create(alice, "three"))
        assert (await create(bob, "three")).status == 200
        assert (await alice.call("DELETE", "/directory/room/%23one:example.org")).status == 200
        assert (await create(alice, "four")).status == 200


def _delayed(number: int, user: str, size: int) -> DelayedEvent:
    return DelayedEvent(
        delay_id=f"{user}{number}",
        user_id=UserId(user),
        room_id=RoomId("!r:example.org"),
        type="m.x",
        state_key=None,
        content=b'"%b"' % (b"x" * size),
        sticky_ms=None,
        delay_ms=60_000,
        scheduled_ms=0,
    )


async def test_delayed_events_are_limited_by_bytes(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        await put_room(worker, RoomId("!r:example.org"), {})
        database = worker.foundation.database

        async def schedule(number: int, user: str = "@a:x") -> str | None:
            event = _delayed(number, user, 1000)
            return (await schedule_delayed_event(database, event, None, max_scheduled=100, max_bytes=5_000)).delay_id

        assert [await schedule(number) is not None for number in range(6)] == [True] * 4 + [False] * 2
        assert await schedule(0, "@b:x") is not None
        # Finalised events keep as many bytes, the latest.
        for number in range(4):
            await finalise_delayed_event(database, f"@a:x{number}", EventId(f"$e{number}"), None)
        for number in range(10, 13):
            assert await schedule(number) is not None
            await finalise_delayed_event(database, f"@a:x{number}", EventId(f"$e{number}"), None)
        assert await schedule(20) is not None
        rows = await worker.sql(
            "SELECT delay_id FROM delayed_events WHERE user_id = '@a:x' AND finalised_ms IS NOT NULL"
        )
        assert len(rows) == 4


async def test_data_of_deleted_rooms_is_not_counted_any_more(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, _config(account_data_bytes=10_000)) as worker:
        alice = await worker.register("alice")
        room = f"/user/{alice.quoted}/rooms/!r:example.org/account_data/m.x"
        assert (await alice.call("PUT", room, {"text": "x" * 8000})).status == 200
        assert _is_refused(await _put(alice, "m.y", "x" * 4000))
        nid = (await put_room(worker, RoomId("!r:example.org"), {})).nid
        await worker.sql("UPDATE rooms SET deleted_id = room_id WHERE room_nid = $1", nid)
        statement = ALL_STATEMENTS["delete_room_account_data"]
        await worker.foundation.writer.write(statement, RowsOfRoom(room_nid=nid, rows=100))
        assert (await _put(alice, "m.y", "x" * 4000)).status == 200
        running, true = await _counted(worker, alice)
        assert running == true


async def test_user_is_typing_in_so_many_rooms_at_a_time(
    postgres: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.client_api.rooms.typing_notices._MAX_OF_USER", 2)
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        rooms = [RoomId(f"!r{number}:example.org") for number in range(3)]
        for room_id in rooms:
            await put_room(worker, room_id, dict.fromkeys((alice.user_id, bob.user_id), "join"))

        async def type_in(user: User, room_id: str, typing: bool = True) -> int:
            path = f"/rooms/{room_id}/typing/{user.quoted}"
            return (await user.call("PUT", path, {"typing": typing, "timeout": 30_000})).status

        assert [await type_in(alice, room_id) for room_id in rooms] == [200, 200, 429]
        assert await type_in(alice, rooms[0]) == 200  # again
        assert await type_in(bob, rooms[2]) == 200
        assert await type_in(alice, rooms[0], typing=False) == 200
        assert await type_in(alice, rooms[2]) == 200
        assert await type_in(alice, rooms[0]) == 429
