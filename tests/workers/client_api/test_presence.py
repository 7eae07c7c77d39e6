"""Presence at its owner: endpoints, reports from synchrotrons, timeouts, and the change of owners."""

import asyncio
from typing import Any

import orjson

from replication.calls.presence import REPORT_PRESENCE
from replication.streams import PRESENCE
from shared.config.sections import Presence
from shared.core.identifiers import RoomId
from shared.core.presence import IDLE_AFTER_MS, LAPSES_AFTER_MS
from shared.core.slots import slot_of
from tests.fix_servers import TestDatabase
from tests.rigs.client_api import ClientApi, User, client_api, make_config
from tests.rigs.requests import SECRET, Answer
from tests.spec_answers import check_answer
from tests.workers.client_api.rooms import put_room
from workers.client_api.people.presence import MAX_STATUS_CHARS

_ROOM = RoomId("!room:example.org")
_PATH = "/presence/{userId}/status"


def _rows(worker: ClientApi) -> list[tuple[str, str, bool, str | None]]:
    rows = worker.bus.rows(PRESENCE)
    return [(row.user_id, row.state, row.currently_active, row.status_msg) for row in rows]


async def _put(user: User, body: Any, target: User | None = None) -> Answer:
    return await user.call("PUT", f"/presence/{(target or user).quoted}/status", body)


async def _get(user: User, target: User | None = None) -> Answer:
    answer = await user.call("GET", f"/presence/{(target or user).quoted}/status")
    if answer.status == 200:
        check_answer("presence.yaml", _PATH, "get", answer.json)
    return answer


async def _report(worker: ClientApi, *devices: dict[str, Any]) -> list[str]:
    secret = (b"authorization", b"Bearer " + SECRET.encode())
    answer = await worker.call("POST", REPORT_PRESENCE.path, raw=orjson.dumps({"devices": devices}), headers=[secret])
    assert answer.status == 200, answer.body
    elsewhere: list[str] = answer.json["elsewhere"]
    return elsewhere


def _device(user: User, told: str = "", active_ago_ms: int | None = 0) -> dict[str, Any]:
    return {
        "user_id": user.user_id,
        "device_id": user.device_id,
        "set_presence": told,
        "seen_ago_ms": 0,
        "active_ago_ms": active_ago_ms,
    }


async def test_presence_is_shown_to_users_in_shared_rooms(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob, eve = [await worker.register(name) for name in ("alice", "bob", "eve")]
        await put_room(worker, _ROOM, {alice.user_id: "join", bob.user_id: "join", eve.user_id: "invite"})
        assert (await _get(bob, alice)).json == {"presence": "offline"}
        answer = await _put(alice, {"presence": "online", "status_msg": "in a \u0000 meeting"})
        check_answer("presence.yaml", _PATH, "put", answer.json)
        shown = (await _get(bob, alice)).json
        assert shown.pop("last_active_ago") < 5_000
        assert shown == {"presence": "online", "currently_active": True, "status_msg": "in a \u0000 meeting"}
        assert (await _put(alice, {"presence": "unavailable"})).json == {}
        assert (await _get(alice)).json["status_msg"] == "in a \u0000 meeting"  # unchanged
        await _put(alice, {"presence": "offline", "status_msg": None})
        assert "status_msg" not in (await _get(bob, alice)).json
        assert [row[1:] for row in _rows(worker)] == [
            ("online", True, "in a \u0000 meeting"),
            ("unavailable", False, "in a \u0000 meeting"),
            ("offline", False, None),
        ]
        for reader, target in ((eve, alice), (alice, eve)):
            answer = await _get(reader, target)
            assert (answer.status, answer.errcode) == (403, "M_FORBIDDEN")
        nobody = await alice.call("GET", "/presence/@nobody:example.org/status")
        assert (nobody.status, nobody.errcode) == (403, "M_FORBIDDEN")
        assert (await _put(bob, {"presence": "online"}, alice)).errcode == "M_FORBIDDEN"
        for body, errcode in (
            ({"presence": "busy"}, "M_INVALID_PARAM"),
            ({"presence": "online", "status_msg": "x" * (MAX_STATUS_CHARS + 1)}, "M_INVALID_PARAM"),
            ({"presence": "online", "status_msg": 7}, "M_BAD_JSON"),
            ({"presence": None}, "M_BAD_JSON"),
            ({}, "M_BAD_JSON"),
            ([], "M_BAD_JSON"),
        ):
            answer = await _put(alice, body)
            assert (answer.status, answer.errcode) == (400, errcode), body
        assert (await alice.call("GET", "/presence/nobody/status")).errcode == "M_INVALID_PARAM"


async def test_disabled_presence_stores_nothing(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, make_config(presence=Presence(enabled=False))) as worker:
        alice = await worker.register("alice")
        assert (await _put(alice, {"presence": "online", "status_msg": "here"})).json == {}
        assert await _report(worker, _device(alice)) == []
        assert (await _get(alice)).errcode == "M_NOT_FOUND"
        assert _rows(worker) == [] and await worker.sql("SELECT 1 FROM presence") == []


async def test_heartbeats_do_not_announce_presence_again(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice, bob = await worker.register("alice"), await worker.register("bob")
        assert await _report(worker, _device(alice), _device(bob, "unavailable", None)) == []
        assert _rows(worker) == [
            (alice.user_id, "online", True, None),
            (bob.user_id, "unavailable", False, None),
        ]
        for _ in range(3):  # heartbeats
            worker.clock.advance(10)
            await _report(worker, _device(alice, active_ago_ms=10_000), _device(bob, "unavailable", None))
        assert len(_rows(worker)) == 2
        # A reader that missed messages asks for all rows that are valid now.
        worker.foundation.announcer.repeat(PRESENCE)
        assert sorted(_rows(worker)[2:]) == sorted(_rows(worker)[:2])


async def test_user_becomes_idle_then_offline_as_time_passes(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn) as worker:
        alice = await worker.register("alice")
        assert worker.start is not None
        await worker.start()
        await _report(worker, _device(alice))

        async def announced(count: int) -> tuple[str, bool]:
            for _ in range(100):
                if len(_rows(worker)) >= count:
                    break
                await asyncio.sleep(0.05)
            return _rows(worker)[-1][1:3]

        assert await announced(1) == ("online", True)
        worker.clock.advance(61)
        await _report(worker, _device(alice, active_ago_ms=61_000))
        assert await announced(2) == ("online", False)
        worker.clock.advance(IDLE_AFTER_MS / 1000 - 62)
        await _report(worker, _device(alice, active_ago_ms=None))
        worker.clock.advance(2)
        assert await announced(3) == ("unavailable", False)
        worker.clock.advance(LAPSES_AFTER_MS / 1000)
        assert await announced(4) == ("offline", False)
        assert (await _get(alice)).json["presence"] == "offline"
        for _ in range(50):
            saved = await worker.sql("SELECT state, last_active_ms FROM presence")
            if saved and saved[0]["state"] == "offline":
                break
            worker.clock.advance(6)
            await asyncio.sleep(0.1)
        assert saved[0]["state"] == "offline"
        assert saved[0]["last_active_ms"] > 0
        assert (await _get(alice)).json["last_active_ago"] > IDLE_AFTER_MS


async def test_new_owner_continues_from_the_saved_presence(postgres: TestDatabase) -> None:
    async with client_api(postgres.dsn, name="client_api-1") as first:
        alice, bob = await first.register("alice"), await first.register("bob")
        await _put(alice, {"presence": "online", "status_msg": "kept"})
        # This process owns alice's slot only.
        owned = {slot_of(alice.user_id)}
        first.foundation.slots.owns = lambda kind, slot: slot in owned  # type: ignore[method-assign]
        assert await _report(first, _device(alice), _device(bob)) == [bob.user_id]
        async with client_api(postgres.dsn, name="client_api-2") as second:
            assert await _report(second, _device(alice, active_ago_ms=70_000)) == []
            assert _rows(second) == [(alice.user_id, "online", True, "kept")], "the saved status message is used"
            alice_elsewhere = User(second, alice.user_id, alice.token, alice.device_id)
            assert (await _get(alice_elsewhere)).json["status_msg"] == "kept"
