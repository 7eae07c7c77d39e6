"""Random rooms and random connections of sliding sync: each client shows the stored events.

Windows move and shrink, limits and required state change, and positions are repeated after lost responses. Requests go
to either synchrotron, frames are held back and lost, rooms are evicted, and there are forks and gaps.
"""

import random
from dataclasses import dataclass
from typing import Any

import pytest

from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.synchrotron import Client, fleet
from tests.workers.synchrotron.naive_rooms import NaiveRoom, read_naively
from tests.workers.synchrotron.sliding_client import SlidingClient, merged, merged_list
from tests.workers.synchrotron.test_sync_model import NAMES, act, fork

MEMBER = "m.room.member"
WHOLE: dict[str, Any] = {"include": [{}]}
LAZY: dict[str, Any] = {"include": [{}], "lazy_members": True}
LITTLE: dict[str, Any] = {"include": [{"type": "m.room.topic"}], "lazy_members": True}


@dataclass(slots=True)
class RandomClient:
    """state: the required state of all requests. None: it changes, and in the end is everything."""

    sliding: SlidingClient
    dice: random.Random
    state: dict[str, Any] | None

    def request(self) -> dict[str, Any]:
        dice = self.dice
        lists = {}
        for name in dice.sample(("a", "b"), dice.choice((1, 1, 2))):
            first = dice.choice((0, 0, 1))
            state = self.state or dice.choice((WHOLE, LAZY, LITTLE))
            lists[name] = merged_list(dice.choice((0, 1, 2, 5, 20)), state, range=[first, first + dice.choice((0, 1))])
            if dice.random() < 0.2:
                del lists[name]["range"]
        return {"lists": lists}

    async def sync(self) -> None:
        client = self.sliding.client
        assert client is not None
        client.synchrotron = self.dice.randrange(len(client.world.synchrotrons))
        while self.dice.random() < 0.2:  # the response is lost
            await merged(client, self.sliding.pos, **(self.sliding.body | self.request()))
            client.synchrotron = self.dice.randrange(len(client.world.synchrotrons))
        await self.sliding.sync(**self.request())

    async def finish(self) -> None:
        lists = {"all": merged_list(self.dice.choice((0, 1, 3, 20)), self.state or WHOLE)}
        while (await self.sliding.sync(lists=lists))["rooms"]:
            pass


async def earlier(client: Client, room_id: RoomId, place: str | None) -> list[str]:
    """Return the events on all pages back from a point, oldest first."""
    found: list[str] = []
    while place is not None:
        page = await client.room(room_id, "messages", dir="b", limit=5, **{"from": place})
        assert page.status == 200, page.body
        found += [event["event_id"] for event in page.json["chunk"]]
        place = page.json.get("end")
    return found[::-1]


async def check(one: RandomClient, naive: dict[str, NaiveRoom]) -> None:
    client, rooms = one.sliding.client, one.sliding.rooms
    assert client is not None
    user_id = client.user_id
    assert not one.sliding.doubled
    joined = {room_id for room_id, room in naive.items() if room.membership(room.after[-1], user_id) == "join"}
    assert {room_id for room_id, room in rooms.items() if room.membership == "join"} == joined
    for room_id in joined:
        mine, truth = rooms[room_id], naive[room_id].state_ids()
        timeline = await earlier(client, RoomId(room_id), mine.prev_batch) + mine.timeline
        assert timeline == naive[room_id].visible(user_id), (user_id, room_id)
        members = sum(room_state_is_join(naive[room_id], key) for key in truth)
        assert mine.joined == members
        if one.state is None:
            # A client does not learn of a key that left the state while it did not want the key.
            for key in naive[room_id].once_left - truth.keys():
                mine.state.pop(key, None)
        if one.state is LAZY:
            assert {item for item in mine.state.items() if item[0][0] != MEMBER} == {
                item for item in truth.items() if item[0][0] != MEMBER
            }
        else:
            assert mine.state == truth, (user_id, room_id)


def room_state_is_join(room: NaiveRoom, key: tuple[str, str]) -> bool:
    return key[0] == MEMBER and room.membership(room.after[-1], key[1]) == "join"


async def conversation(dsn: str, seed: int, *, forks: bool) -> None:
    dice = random.Random(seed)
    rooms_bytes = 60_000 if seed % 2 else 1 << 26
    async with fleet(dsn, synchrotrons=2, persisters=2, rooms_bytes=rooms_bytes) as world:
        clients = [
            RandomClient(SlidingClient(world.user(name), {"conn_id": str(number)}), dice, state)
            for name in NAMES
            for number, state in enumerate((WHOLE, LAZY, None))
        ]
        room_ids: list[RoomId] = []
        for number in range(160):
            if forks and room_ids and dice.random() < 0.25:
                await fork(world, dice, dice.choice(room_ids), number, set())
            else:
                await act(world, dice, room_ids, number)
            if dice.random() < 0.35:
                await dice.choice(clients).sync()
            if dice.random() < 0.02:
                world.bus.holding = True
            elif world.bus.holding and dice.random() < 0.2:
                if dice.random() < 0.5:
                    world.bus.drop_held()
                else:
                    world.bus.release()
        world.bus.release()
        # A frame after the lost ones shows the gap. No other repair may be needed.
        for room_id in room_ids:
            for name in NAMES:
                await world.user(name).writes.send(room_id, "last")
        await world.settle()
        naive = await read_naively(world.database)
        for one in clients:
            await one.finish()
            await check(one, naive)


@pytest.mark.parametrize("forks", [False, True])
@pytest.mark.parametrize("seed", range(2))
async def test_random_clients_show_the_stored_events(postgres: TestDatabase, seed: int, forks: bool) -> None:
    await conversation(postgres.dsn, seed, forks=forks)


@pytest.mark.soak
@pytest.mark.parametrize("forks", [False, True])
@pytest.mark.parametrize("seed", range(2, 40))
async def test_random_clients_for_longer(postgres: TestDatabase, seed: int, forks: bool) -> None:
    await conversation(postgres.dsn, seed, forks=forks)
