"""To-device messages and key counts in /sync."""

import asyncio
import re
from typing import Any

from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import fleet, soon
from tests.workers.client_api.keys import ALGORITHM, claim, one_time_key, one_time_keys, upload
from tests.workers.synchrotron.devices import inbox, person, send, writers
from workers.synchrotron.devices.device_section import MAX_MESSAGES


async def test_message_wakes_its_device_alone_and_is_deleted_once_acknowledged(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        other = await person(world, api, "bob", "OTHER")
        tokens = [(await each.sync())["next_batch"] for each in (bob, other)]
        process = world.synchrotrons[0]
        waiting, silent = (
            asyncio.create_task(each.sync(token, timeout=10_000))
            for each, token in zip((bob, other), tokens, strict=True)
        )
        await soon(waiting)
        await send(alice.writes, "1", bob, {"n": 1})
        answer = await waiting
        [event] = answer["to_device"]["events"]
        assert event == {"type": "m.x", "sender": alice.user_id, "content": {"n": 1}}
        assert process.metric("skep_sync_wake_ups_total") == 1
        assert not silent.done()
        silent.cancel()
        # It is sent until it is acknowledged. Another device's token acknowledges nothing.
        assert inbox(await bob.sync(tokens[0])) == [{"n": 1}]
        assert inbox(await bob.sync()) == [{"n": 1}]
        await other.sync(answer["next_batch"])
        assert inbox(await bob.sync(tokens[0])) == [{"n": 1}]
        assert inbox(await bob.sync(answer["next_batch"])) == []
        assert not await world.database.fetch("SELECT 1 FROM to_device_messages")
        queries = process.metric("skep_sync_queries_total")
        assert inbox(await bob.sync(answer["next_batch"], timeout=1)) == []
        assert process.metric("skep_sync_queries_total") == queries


async def test_long_inbox_comes_in_ordered_parts(postgres: TestDatabase) -> None:
    """Of two writers at once. Parts end at vectors: no message is lost, doubled or out of its sender's order."""
    async with fleet(postgres.dsn, synchrotrons=2) as world, writers(postgres.dsn, world, 2) as [one, two]:
        alice, bob, carol = [await person(world, one, name) for name in ("alice", "bob", "carol")]
        token = (await carol.sync())["next_batch"]

        async def talk(sender: Any, name: str) -> None:
            for number in range(130):
                await send(sender, str(number), carol, {"from": name, "n": number})

        await asyncio.gather(talk(alice.writes, "alice"), talk(bob.by(two), "bob"))
        got: list[Any] = []
        for part in range(4):
            carol.reads.synchrotron = part % 2
            answer = await carol.sync(token, timeout=2_000 if part < 3 else 0)
            again = await carol.sync(token, timeout=2_000 if part < 3 else 0)
            assert inbox(again) == inbox(answer)
            assert len(inbox(answer)) <= MAX_MESSAGES
            got += inbox(answer)
            token = again["next_batch"]
        for name in ("alice", "bob"):
            assert [each["n"] for each in got if each["from"] == name] == list(range(130))
        assert len(got) == 260


async def test_lost_frame_keeps_the_order_of_a_sender(postgres: TestDatabase) -> None:
    """A sender moves to another writer, and the frame of their earlier message is lost."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world, 2) as [one, two]:
        alice, bob = await person(world, one, "alice"), await person(world, one, "bob")
        token = (await bob.sync())["next_batch"]
        await send(alice.writes, "0", bob, {"n": 0})
        answer = await bob.sync(token, timeout=5_000)
        assert inbox(answer) == [{"n": 0}]
        world.bus.holding = True
        await send(alice.writes, "1", bob, {"n": 1})
        world.bus.drop_held()
        await send(alice.by(two), "2", bob, {"n": 2})
        answer = await bob.sync(answer["next_batch"], timeout=5_000)
        assert inbox(answer) == [{"n": 1}, {"n": 2}]


async def test_key_counts_include_the_latest_claim(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        first = await alice.sync()
        assert first["device_one_time_keys_count"] == {ALGORITHM: 0}
        assert first["device_unused_fallback_key_types"] == []
        cold = first["next_batch"]
        waiting = asyncio.create_task(alice.sync(first["next_batch"], timeout=10_000))
        await soon(waiting)
        fallback = {f"{ALGORITHM}:f": one_time_key("f")}
        await upload(alice.writes, one_time_keys=one_time_keys("a", "b"), fallback_keys=fallback)
        answer = await waiting
        assert answer["device_one_time_keys_count"] == {ALGORITHM: 2}
        assert answer["device_unused_fallback_key_types"] == [ALGORITHM]
        for left, unused in ((1, [ALGORITHM]), (0, [ALGORITHM]), (0, [])):
            waiting = asyncio.create_task(alice.sync(answer["next_batch"], timeout=10_000))
            await soon(waiting)
            assert await claim(bob.writes, alice.writes) is not None
            answer = await waiting
            assert answer["device_one_time_keys_count"] == {ALGORITHM: left}
            assert answer["device_unused_fallback_key_types"] == unused
        # A process that never saw this device knows that its token does not cover the message.
        alice.reads.synchrotron = 1
        began = asyncio.get_running_loop().time()
        answer = await alice.sync(cold, timeout=60_000)
        assert answer["device_unused_fallback_key_types"] == []
        assert asyncio.get_running_loop().time() - began < 30
        # Without updates it waits, and has the counts all the same.
        answer = await alice.sync(answer["next_batch"], timeout=100)
        assert answer["device_one_time_keys_count"] == {ALGORITHM: 0}


async def test_tokens_from_before_these_streams_are_valid(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice, bob = await person(world, api, "alice"), await person(world, api, "bob")
        token = (await bob.sync())["next_batch"]
        await send(alice.writes, "1", bob, {"n": 1})
        old = re.sub(r"_[mdk][0-9.-]*", "", token)
        assert old != token
        answer = await bob.sync(old, timeout=5_000)
        assert inbox(answer) == [{"n": 1}]
        future = re.sub(r"_m(\d+)\.(\d+)", r"_m\1.9999", token)
        refused = await bob.reads.get("/sync", since=future)
        assert (refused.status, refused.json["errcode"]) == (400, "M_INVALID_PARAM")
