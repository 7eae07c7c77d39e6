"""The extensions of sliding sync."""

import asyncio
from typing import Any

import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet, soon
from tests.workers.client_api.keys import one_time_keys, upload
from tests.workers.synchrotron.devices import Person, person, send, writers
from tests.workers.synchrotron.sliding_client import DEPLOYED, MERGED, merged, merged_list, post

NOW_MS = 4_000_000_000_000  # later than any clock here


def on(**parameters: Any) -> dict[str, Any]:
    return {"enabled": True, **parameters}


async def ask(who: Person, pos: str | None = None, timeout: int = 0, **extensions: Any) -> tuple[str, Any]:
    """Return the new position and the extensions of a response, for a request without lists."""
    answer = await merged(who.reads, pos, timeout, extensions=extensions)
    return answer["pos"], answer["extensions"]


async def test_to_device_has_a_token_of_its_own(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        pos, told = await ask(bob, to_device=on())
        since = told["to_device"]["next_batch"]
        assert told["to_device"]["events"] == []
        waiting = asyncio.create_task(ask(bob, pos, 10_000, to_device=on(since=since, limit=2)))
        await soon(waiting)
        assert not waiting.done()
        await send(alice.writes, "0", bob, {"n": 0})
        _, told = await waiting
        for number in (1, 2):
            await send(alice.writes, str(number), bob, {"n": number})
        assert [event["content"]["n"] for event in told["to_device"]["events"]] == [0]
        _, told = await ask(bob, pos, to_device=on(since=since, limit=2))  # not acknowledged: the same messages again
        assert [event["content"]["n"] for event in told["to_device"]["events"]] == [0, 1]
        assert set(told["to_device"]["events"][0]) == {"sender", "type", "content"}
        bob.reads.synchrotron = 1  # another connection on another process acknowledges it
        answer = await merged(
            bob.reads, conn_id="crypto", extensions={"to_device": on(since=told["to_device"]["next_batch"])}
        )
        assert [event["content"]["n"] for event in answer["extensions"]["to_device"]["events"]] == [2]
        assert len(await world.database.fetch("SELECT 1 FROM to_device_messages")) == 1
        _, told = await ask(bob, to_device=on(since=answer["extensions"]["to_device"]["next_batch"]))
        assert told["to_device"]["events"] == []
        assert not await world.database.fetch("SELECT 1 FROM to_device_messages")
        refused = await post(bob.reads, MERGED, {"extensions": {"to_device": on(since="x")}})
        assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")


async def test_e2ee_has_changes_only(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        pos, told = await ask(alice, e2ee=on())
        assert told["e2ee"] == {
            "device_one_time_keys_count": {"signed_curve25519": 0},
            "device_unused_fallback_key_types": [],
        }
        waiting = asyncio.create_task(ask(alice, pos, 10_000, e2ee=on()))
        await soon(waiting)
        await upload(alice.writes, one_time_keys=one_time_keys("a", "b"))
        pos, told = await waiting
        assert told["e2ee"]["device_one_time_keys_count"] == {"signed_curve25519": 2}
        assert "device_lists" not in told["e2ee"]
        waiting = asyncio.create_task(ask(alice, pos, 10_000, e2ee=on()))
        await soon(waiting)
        await bob.reads.writes.act(room_id, "leave")
        pos, told = await waiting
        assert told["e2ee"] == {"device_lists": {"changed": [], "left": [bob.user_id]}}
        assert (await ask(alice, pos, e2ee=on()))[1] == {}
        assert (await ask(alice, pos, e2ee={"enabled": False}, unheard={"of": 1}))[1] == {}


async def test_account_data_receipts_and_typing_of_rooms_in_scope(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice, bob = world.user("alice"), world.user("bob")
        rooms = []
        for name in ("quiet", "loud"):
            rooms.append(await alice.writes.create_room(preset="public_chat", name=name))
            await bob.writes.act(rooms[-1], "join")
        quiet, loud = rooms
        old = (await alice.writes.send(quiet, "old")).event_id
        last = (await alice.writes.send(quiet, "last")).event_id
        await world.set_receipt(quiet, bob.user_id, last)
        await world.set_receipt(quiet, alice.user_id, old)
        await world.set_account_data(alice.user_id, quiet, "m.tag", {"tags": {}})
        await world.set_account_data(alice.user_id, RoomId(""), "m.x", {"a": 1})
        await alice.writes.send(loud, "on top")
        lists = {"top": merged_list(1, range=[0, 0])}
        everything = {name: on() for name in ("account_data", "receipts", "typing")}
        first = await merged(alice, lists=lists, extensions=everything)
        assert set(first["rooms"]) == {loud}
        assert {event["type"] for event in first["extensions"]["account_data"]["global"]} == {
            "m.x",
            "m.push_rules",
        }
        assert "rooms" not in first["extensions"]["account_data"] and "receipts" not in first["extensions"]
        both = {"top": merged_list(1, range=[0, 1])}
        second = await merged(alice, first["pos"], lists=both, extensions=everything)
        told = second["extensions"]
        assert [event["type"] for event in told["account_data"]["rooms"][quiet]] == ["m.tag"]
        assert "global" not in told["account_data"]
        # A new room has the receipts for its shown events, and the user's own.
        assert set(told["receipts"]["rooms"][quiet]["content"]) == {old, last}
        assert "typing" not in told
        third = await merged(alice, second["pos"], lists=both, extensions=everything)
        assert third["extensions"] == {}

        waiting = asyncio.create_task(merged(alice, third["pos"], 10_000, lists=both, extensions=everything))
        await soon(waiting)
        world.set_typing(quiet, bob.user_id, NOW_MS)
        answer = await waiting
        assert answer["rooms"] == {}
        typing = answer["extensions"]["typing"]["rooms"]
        assert typing == {quiet: {"type": "m.typing", "content": {"user_ids": [bob.user_id]}}}

        # Out of scope nothing is sent or wakes. Back in scope everything is sent, by any process.
        narrow = {**everything, "receipts": on(lists=[]), "typing": on(lists=["other"], rooms=["*"])}
        waiting = asyncio.create_task(merged(alice, answer["pos"], 10_000, lists=both, extensions=narrow))
        await soon(waiting)
        await world.set_receipt(quiet, bob.user_id, old)
        world.set_typing(quiet, bob.user_id, 0)
        await soon(waiting)
        assert not waiting.done()
        await world.set_account_data(alice.user_id, RoomId(""), "m.y", {"a": 1})
        silent = await waiting
        assert silent["rooms"] == {} and silent["extensions"].keys() == {"account_data"}
        for process in (0, 1):
            alice.synchrotron = process
            wide = await merged(alice, silent["pos"], lists=both, extensions=everything)
            content = wide["extensions"]["receipts"]["rooms"][quiet]["content"]
            assert {user for kinds in content.values() for user in kinds["m.read"]} == {bob.user_id, alice.user_id}
        alice.synchrotron = 0
        wide = await merged(alice, silent["pos"], lists=both, extensions=everything)
        assert wide["extensions"]["typing"]["rooms"][quiet]["content"]["user_ids"] == []
        await world.set_account_data(alice.user_id, quiet, "m.tag", {"tags": {"u.a": {}}})
        answer = await merged(alice, wide["pos"], 10_000, lists=both, extensions=everything)
        assert answer["extensions"]["account_data"]["rooms"][quiet][0]["content"] == {"tags": {"u.a": {}}}
        subscribed = await merged(
            alice, room_subscriptions={quiet: merged_list(0)}, extensions={"receipts": on(rooms=["!other:x"])}
        )
        assert subscribed["extensions"] == {}


@pytest.mark.parametrize("path", [MERGED, DEPLOYED])
async def test_bad_requests_are_refused(postgres: TestDatabase, path: str) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        state: Any = {"include": []} if path == MERGED else []
        good = {"timeline_limit": 1, "required_state": state}
        span, one = ("range", [0, 1]) if path == MERGED else ("ranges", [[0, 1]])
        backwards, below = ([1, 0], [-1, 0]) if path == MERGED else ([[1, 0]], [[-1, 0]])
        many = {f"!{number}:x": good for number in range(101)}
        refused: list[tuple[Any, str]] = [
            ({"lists": many}, "M_INVALID_PARAM"),
            ({"room_subscriptions": many}, "M_INVALID_PARAM"),
            ({"lists": {"l": {**good, span: backwards}}}, "M_INVALID_PARAM"),
            ({"lists": {"l": {**good, span: below}}}, "M_INVALID_PARAM"),
            ({"lists": {"l": {**good, "timeline_limit": -1}}}, "M_INVALID_PARAM"),
            ({"lists": {"l": {**good, "timeline_limit": "1"}}}, "M_BAD_JSON"),
            ({"lists": {"": good}}, "M_INVALID_PARAM"),
            ({"lists": {"all rooms": good}}, "M_INVALID_PARAM" if path == MERGED else ""),
            ({"lists": {"l": {**good, span: "all"}}}, "M_BAD_JSON"),
            ({"lists": {"l": {**good, "filters": {"tags": ["t"] * 501, "not_tags": list("abc")}}}}, ""),
            ({"lists": {"l": {**good, "filters": {"tags": list(map(str, range(501)))}}}}, "M_INVALID_PARAM"),
            ({"extensions": {"typing": {"enabled": 1}}}, "M_BAD_JSON"),
            ({"extensions": {"to_device": {"enabled": True, "limit": 0}}}, "M_BAD_JSON"),
            ({"conn_id": "c" * 256}, "M_INVALID_PARAM"),
            ({"lists": {"l": {**good, span: one}}}, ""),
        ]
        for body, errcode in refused:
            answer = await post(alice, path, body)
            assert answer.json.get("errcode", "") == errcode, (body, answer.body)
            assert answer.status == (400 if errcode else 200)
