"""`device_lists` of /sync and GET /keys/changes: whose devices a client must ask for again, and whose no more."""

import asyncio
from typing import Any

import pytest

from tests.fix_servers import TestDatabase
from tests.workers.client_api.keys import upload_identity
from tests.workers.event_persister.rig import run
from tests.workers.synchrotron.devices import Person, lists, person, writers
from tests.workers.synchrotron.rig import fleet, soon


async def _changes(who: Person, since: str, to: str) -> tuple[set[str], set[str]]:
    answer = await who.writes.call("GET", "/keys/changes", query=f"from={since}&to={to}")
    assert answer.status == 200, answer.body
    return set(answer.json["changed"]), set(answer.json["left"])


async def _until_told(who: Person, token: str) -> tuple[Any, str]:
    """Sync until device lists are told; return (changed, left) and the token."""
    async with asyncio.timeout(10):
        while True:
            answer = await who.sync(token, timeout=2_000)
            token = answer["next_batch"]
            if any(lists(answer)):
                return lists(answer), token


def test_new_keys_wake_those_who_share_a_room(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
            alice, bob, carol = [await person(world, api, name) for name in ("alice", "bob", "carol")]
            room_id = await alice.reads.writes.create_room(preset="public_chat")
            await bob.reads.writes.act(room_id, "join")
            tokens = {each.user_id: (await each.sync())["next_batch"] for each in (alice, bob, carol)}
            waiting = {
                each.user_id: asyncio.create_task(each.sync(tokens[each.user_id], timeout=10_000))
                for each in (alice, bob, carol)
            }
            await soon(waiting[carol.user_id])
            await upload_identity(bob.writes)
            for each in (alice, bob):
                answer = await waiting[each.user_id]
                assert lists(answer) == ({bob.user_id}, set())
                assert await _changes(each, tokens[each.user_id], answer["next_batch"]) == ({bob.user_id}, set())
                tokens[each.user_id] = answer["next_batch"]
            assert not waiting[carol.user_id].done()
            waiting[carol.user_id].cancel()
            # Nothing of it is told twice, and then nobody asks Postgres.
            process = world.synchrotrons[0]
            queries = process.metric("skep_sync_queries_total")
            assert lists(await alice.sync(tokens[alice.user_id])) == (set(), set())
            assert process.metric("skep_sync_queries_total") == queries
            # His log-out is a change of his list.
            assert (await bob.writes.call("POST", "/logout", {})).status == 200
            told, _ = await _until_told(alice, tokens[alice.user_id])
            assert told == ({bob.user_id}, set())

    run(scenario())


def test_an_initial_sync_names_nobody(postgres: TestDatabase) -> None:
    async def scenario() -> None:
        async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
            alice = await person(world, api, "alice")
            await upload_identity(alice.writes)
            assert lists(await alice.sync()) == (set(), set())

    run(scenario())


@pytest.mark.parametrize("cold", [False, True])
def test_coming_and_going(postgres: TestDatabase, cold: bool) -> None:
    """cold: the process knows nothing of the tokens (they have a part of a stream of the future)."""

    async def scenario() -> None:
        async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
            alice, bob, carol = [await person(world, api, name) for name in ("alice", "bob", "carol")]
            first = await alice.reads.writes.create_room(preset="public_chat")
            second = await alice.reads.writes.create_room(preset="public_chat")
            await carol.reads.writes.act(first, "join")
            tokens = {each.user_id: (await each.sync())["next_batch"] for each in (alice, bob, carol)}

            async def told(who: Person) -> tuple[set[str], set[str]]:
                await world.settle()
                since = tokens[who.user_id] + ("_z0.0" if cold else "")
                answer = await who.sync(since)
                assert await _changes(who, since, answer["next_batch"]) == lists(answer)
                tokens[who.user_id] = answer["next_batch"]
                return lists(answer)

            await bob.reads.writes.act(first, "join")
            assert await told(bob) == ({alice.user_id, carol.user_id}, set())
            assert await told(alice) == await told(carol) == ({bob.user_id}, set())
            assert await told(alice) == (set(), set())
            await alice.reads.writes.send(first, "nothing of it")
            assert await told(bob) == (set(), set())
            # Another room is left: alice is still there in the first.
            await bob.reads.writes.act(second, "join")
            await told(bob), await told(alice)
            await bob.reads.writes.act(second, "leave")
            assert await told(bob) == await told(alice) == (set(), set())
            # From the last shared room.
            await bob.reads.writes.act(first, "leave")
            assert await told(bob) == (set(), {alice.user_id, carol.user_id})
            assert await told(alice) == await told(carol) == (set(), {bob.user_id})
            # Into one and out of the other between two answers.
            await bob.reads.writes.act(first, "join")
            await told(alice), await told(bob)
            await bob.reads.writes.act(first, "leave")
            await bob.reads.writes.act(second, "join")
            assert await told(alice) == ({bob.user_id}, set())
            assert await told(bob) == ({alice.user_id}, {carol.user_id})
            # An invitation is nobody's business yet.
            await alice.reads.writes.act(second, "invite", {"user_id": carol.user_id})
            assert (await told(carol))[0] == set()

    run(scenario())
