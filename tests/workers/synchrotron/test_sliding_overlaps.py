"""Clients of sliding sync that abort requests and repeat them: a position that was given stays good."""

import asyncio
import random
from typing import Any

import orjson
import pytest

from tests.fix_servers import TestDatabase
from tests.rigs.requests import Answer
from tests.rigs.synchrotron import Client, World, fleet
from tests.workers.synchrotron.sliding_client import MERGED, SlidingClient, merged, merged_list, post

_ROOMS = 6
_NARROW: dict[str, Any] = {
    "lists": {"l": merged_list(3, range=[0, 1])}
}  # rooms leave the range with every message: states change


async def test_position_of_the_answered_request_stays_good_when_the_aborted_one_is_stored_last(
    postgres: TestDatabase,
) -> None:
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice = world.user("alice")
        rooms = [await alice.writes.create_room() for _ in range(_ROOMS)]
        for other in (0, 1):  # the aborted request runs in the same process, then in another one
            start = (await merged(alice, **_NARROW))["pos"]
            await alice.writes.send(rooms[0], "1")
            await world.settle()
            given = [(await merged(alice, start, **_NARROW))["pos"]]
            for number in range(5):  # each is stored after the position that the client goes on with
                alice.synchrotron = other
                await alice.writes.send(rooms[1 + number % 2], "2")
                await world.settle()
                given.append((await merged(alice, start, **_NARROW))["pos"])
            alice.synchrotron = 0
            for pos in given:
                assert (await post(alice, MERGED, {**_NARROW, "pos": pos})).status == 200
            later = (await merged(alice, given[-1], **_NARROW))["pos"]
            await alice.writes.create_room()
            await world.settle()
            await merged(alice, later, **_NARROW)  # stored: the client has named a state after the first ones
            for pos in (start, *given[:-1]):
                assert (await post(alice, MERGED, {**_NARROW, "pos": pos})).json["errcode"] == "M_UNKNOWN_POS"
            kept = await world.database.fetchval("SELECT min(number) FROM sliding_states")
            assert kept == int(later.split(".")[2])


async def test_states_made_from_one_are_bounded(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        rooms = [await alice.writes.create_room() for _ in range(3)]
        start = (await merged(alice, **_NARROW))["pos"]
        for number in range(30):
            await alice.writes.send(rooms[number % 3], "x")
            await world.settle()
            last = (await merged(alice, start, **_NARROW))["pos"]
        assert len(await world.database.fetch("SELECT 1 FROM sliding_states")) == 17  # with the one named last
        for pos in (start, last):
            assert (await merged(alice, pos, **_NARROW))["pos"]


async def test_counts_of_a_lost_response_are_sent_again(postgres: TestDatabase) -> None:
    async with fleet(postgres.dsn) as world:
        alice = world.user("alice")
        body: dict[str, Any] = {
            "lists": {"l": merged_list(1, range=[5, 9])}
        }  # beyond the rooms: there is nothing but the count
        await alice.writes.create_room()
        first = await merged(alice, **body)
        await alice.writes.create_room()
        await world.settle()
        for _ in range(2):  # the first answer is lost
            async with asyncio.timeout(5):
                answer = await merged(alice, first["pos"], timeout=20_000, **body)
            assert answer["lists"]["l"]["count"] == 2


@pytest.mark.parametrize(
    ("seed", "requests"),
    [(1, 300), *(pytest.param(seed, 2_500, marks=pytest.mark.soak) for seed in range(2, 6))],
)
async def test_overlapping_and_aborted_requests_lose_no_position(
    postgres: TestDatabase, seed: int, requests: int
) -> None:
    dice = random.Random(seed)
    async with fleet(postgres.dsn, synchrotrons=2) as world:
        alice = world.user("alice")
        client = SlidingClient(alice, {**_NARROW, "extensions": {"account_data": {"enabled": True}}})
        rooms = [await alice.writes.create_room(name=f"{number}") for number in range(_ROOMS)]
        await client.sync()
        made = 0
        while made < requests:
            under_way = []
            for _ in range(dice.randint(1, 3)):
                under_way.append(asyncio.create_task(_request(world, alice, client, dice)))
                made += 1
                if dice.random() < 0.7:
                    await alice.writes.send(dice.choice(rooms), f"{made}")
                await asyncio.sleep(dice.choice((0, 0, 0.002, 0.01)))
                if dice.random() < 0.3:
                    under_way[-1].cancel()  # the connection is closed
            answers = await asyncio.gather(*under_way, return_exceptions=True)
            given = [answer for answer in answers if isinstance(answer, Answer)]
            for answer in given:
                assert answer.status == 200, answer.body
            assert all(isinstance(answer, (Answer, asyncio.CancelledError)) for answer in answers), answers
            if given and dice.random() < 0.8:  # else all answers are lost
                client.take_in(dice.choice(given).json)
        await world.settle()
        await client.sync(lists={"l": merged_list(3)})
        for room_id in rooms:
            answer = await alice.room(room_id, "messages", dir="b", limit=3)
            latest = [event["event_id"] for event in answer.json["chunk"]][::-1]
            assert client.rooms[room_id].timeline[-3:] == latest
        assert client.counts == {"l": _ROOMS} and not client.doubled


async def _request(world: World, alice: Client, client: SlidingClient, dice: random.Random) -> Answer:
    process = world.synchrotrons[dice.randrange(2)]
    body: dict[str, Any] = {**client.body, "pos": client.pos, "timeout": dice.choice((0, 0, 30))}
    return await process.call("POST", MERGED, {}, f"{alice.user_id}|{alice.writes.device}", orjson.dumps(body))
