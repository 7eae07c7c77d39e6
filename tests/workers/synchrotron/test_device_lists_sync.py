"""`device_lists` of /sync and GET /keys/changes: users to query again, and users who no longer share a room."""

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.core.identifiers import UserId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import World, fleet, soon
from tests.workers.client_api.keys import claim, identity_keys, one_time_keys, upload, upload_identity
from tests.workers.synchrotron.devices import Person, lists, person, writers


async def _changes(who: Person, since: str, to: str) -> tuple[set[str], set[str]]:
    answer = await who.writes.call("GET", "/keys/changes", query=f"from={since}&to={to}")
    assert answer.status == 200, answer.body
    return set(answer.json["changed"]), set(answer.json["left"])


async def _until_told(who: Person, token: str) -> tuple[Any, str]:
    """Sync until there are device list changes. Return (changed, left) and the token."""
    async with asyncio.timeout(10):
        while True:
            answer = await who.sync(token, timeout=2_000)
            token = answer["next_batch"]
            if any(lists(answer)):
                return lists(answer), token


async def test_new_keys_wake_users_who_share_a_room(postgres: TestDatabase) -> None:
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
        # Changes are sent once, and then nothing reads Postgres.
        process = world.synchrotrons[0]
        queries = process.metric("skep_sync_queries_total")
        # With a timeout, as clients ask: one without reads the ends of the user's own streams first.
        assert lists(await alice.sync(tokens[alice.user_id], timeout=1)) == (set(), set())
        assert process.metric("skep_sync_queries_total") == queries
        # A log-out changes the user's device list.
        assert (await bob.writes.call("POST", "/logout", {})).status == 200
        told, _ = await _until_told(alice, tokens[alice.user_id])
        assert told == ({bob.user_id}, set())


async def test_initial_sync_has_no_device_list_changes(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world) as [api]:
        alice = await person(world, api, "alice")
        await upload_identity(alice.writes)
        assert lists(await alice.sync()) == (set(), set())


@pytest.mark.parametrize("cold", [False, True])
async def test_joins_and_leaves_change_device_lists(postgres: TestDatabase, cold: bool) -> None:
    """cold: the process remembers none of the tokens, since they have a part of an unknown stream."""
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
        # They leave the second room: alice still shares the first.
        await bob.reads.writes.act(second, "join")
        await told(bob), await told(alice)
        await bob.reads.writes.act(second, "leave")
        assert await told(bob) == await told(alice) == (set(), set())
        # They leave the last shared room.
        await bob.reads.writes.act(first, "leave")
        assert await told(bob) == (set(), {alice.user_id, carol.user_id})
        assert await told(alice) == await told(carol) == (set(), {bob.user_id})
        # They join one room and leave the other between two responses.
        await bob.reads.writes.act(first, "join")
        await told(alice), await told(bob)
        await bob.reads.writes.act(first, "leave")
        await bob.reads.writes.act(second, "join")
        assert await told(alice) == ({bob.user_id}, set())
        assert await told(bob) == ({alice.user_id}, {carol.user_id})
        # An invitation changes no device list yet.
        await alice.reads.writes.act(second, "invite", {"user_id": carol.user_id})
        assert (await told(carol))[0] == set()


async def test_announced_keys_are_found_on_every_process(postgres: TestDatabase) -> None:
    """/keys/query has no token, and its process gets no frames (protocol notes, A6)."""
    async with fleet(postgres.dsn) as world, writers(postgres.dsn, world, 2) as [one, deaf]:
        alice, bob = await person(world, one, "alice"), await person(world, one, "bob")
        room_id = await alice.reads.writes.create_room(preset="public_chat")
        await bob.reads.writes.act(room_id, "join")
        token = (await alice.sync())["next_batch"]
        asking = alice.by(deaf)
        body: dict[str, Any] = {"device_keys": {bob.user_id: []}}
        assert (await asking.call("POST", "/keys/query", body)).json["device_keys"] == {bob.user_id: {}}
        await upload_identity(bob.writes)
        await upload(bob.writes, one_time_keys=one_time_keys("a"))
        (changed, _), _ = await _until_told(alice, token)
        assert changed == {bob.user_id}
        found = (await asking.call("POST", "/keys/query", body)).json["device_keys"]
        assert set(found[bob.user_id]) == {bob.writes.device_id}
        assert await claim(asking, bob.writes) == "a"


@dataclass(slots=True)
class _Tracker:
    """A client that tracks devices by the spec: it queries users who changed and forgets users who left."""

    who: Person
    token: str = ""
    known: dict[str, int] = field(default_factory=dict)


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_trackers_know_the_devices_of_all_users_who_share_a_room(postgres: TestDatabase, seed: int) -> None:
    """Random joins, leaves, bans and device changes. Responses are lost, late, or from a cold process."""
    chance = random.Random(seed)
    async with fleet(postgres.dsn, synchrotrons=2) as world, writers(postgres.dsn, world) as [api]:
        people = [await person(world, api, name) for name in ("ann", "ben", "cat", "dan")]
        versions: dict[str, int] = {each.user_id: 0 for each in people}
        rooms = {await people[0].reads.writes.create_room(preset="public_chat"): {people[0].user_id} for _ in "123"}

        def sharing(user_id: UserId) -> set[str]:
            return {other for members in rooms.values() if user_id in members for other in members}

        trackers = [_Tracker(each, (await each.sync())["next_batch"]) for each in people]
        for each in trackers:
            each.known = {other: versions[other] for other in sharing(each.who.user_id)}
        for _ in range(150):
            who, (room_id, members) = chance.choice(people), chance.choice(list(rooms.items()))
            step = chance.random()
            if step < 0.2:
                versions[who.user_id] += 1
                keys = identity_keys(who.user_id, who.writes.device_id)
                keys["signatures"][who.user_id]["ed25519:more"] = str(versions[who.user_id])
                assert (await upload(who.writes, device_keys=keys)).status == 200
            elif step < 0.3:
                await who.reads.writes.put_state(
                    room_id, "m.room.member", {"membership": "join", "displayname": str(step)}, who.user_id
                ) if who.user_id in members else None
            elif step < 0.5 and who.user_id not in members:
                if (await who.reads.writes.act(room_id, "join")).status == 200:
                    members.add(who.user_id)
            elif step < 0.7 and who.user_id in members and who is not people[0]:
                await who.reads.writes.act(room_id, "leave")
                members.discard(who.user_id)
            else:
                tracker = chance.choice(trackers)
                await _track(world, tracker, chance, versions)
                mine = sharing(tracker.who.user_id)
                others = mine - {tracker.who.user_id}
                assert {user: tracker.known.get(user) for user in others} == {u: versions[u] for u in others}
                assert tracker.known.keys() - {tracker.who.user_id} <= mine


async def _track(world: World, tracker: _Tracker, chance: random.Random, versions: dict[str, int]) -> None:
    await world.settle()
    tracker.who.reads.synchrotron = chance.randrange(2)
    for _ in range(chance.choice((1, 1, 2))):  # the first response may be lost
        since = tracker.token + chance.choice(("", "", "_z0.0"))
        answer = await tracker.who.sync(since)
    tracker.token = answer["next_batch"]
    changed, left = lists(answer)
    for user_id in left:
        tracker.known.pop(user_id, None)
    for user_id in changed:
        tracker.known[user_id] = versions[user_id]
