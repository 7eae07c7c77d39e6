"""Every client's timelines, state and counts equal what a simple model makes of all that happened."""

import asyncio
import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fix_fleet import RunningFleet, run_fleet
from tests.model.counts import MAIN, Reading, count
from tests.model.happenings import Happenings
from tests.model.people import Device, Village
from tests.model.world import Room
from tests.workers.synchrotron.model_client import ModelClient

_runs = itertools.count(1)
_STEPS = 150
_SETTLE_S = 15.0


@dataclass(slots=True)
class CountingClient(ModelClient):
    """counts: room -> what the server last said of it, main and threads."""

    counts: dict[str, dict[str, tuple[int, int]]] = field(default_factory=dict)
    ignores: set[str] = field(default_factory=set)

    async def _take(self, room_id: str, section: Any) -> None:
        await ModelClient._take(self, room_id, section)
        main = section["unread_notifications"]
        threads = section.get("unread_thread_notifications", {})
        self.counts[room_id] = {
            thread: (each["notification_count"], each["highlight_count"])
            for thread, each in ((MAIN, main), *threads.items())
        }


def _client(device: Device, dice: random.Random) -> CountingClient:
    timeline = {"limit": dice.choice((1, 2, 3, 5, 10))}
    if dice.random() < 0.5:
        timeline["unread_thread_notifications"] = True
    lazy = {"lazy_load_members": True} if dice.random() < 0.25 else {}
    query: dict[str, Any] = {"filter": {"room": {"timeline": timeline, "state": lazy}}}
    if dice.random() < 0.5:
        query["use_state_after"] = True
    return CountingClient(device, query, dice.choice((1, 3, 10)))  # type: ignore[arg-type]


def _expected_counts(room: Room, client: CountingClient) -> dict[str, tuple[int, int]]:
    user_id = client.client.user_id
    counts = count(room.judged, user_id, room.readings.get(user_id, Reading()))
    if client.query["filter"]["room"]["timeline"].get("unread_thread_notifications"):
        return counts
    return {MAIN: (sum(n for n, _ in counts.values()), sum(h for _, h in counts.values()))}


def _faults(world: Happenings, client: CountingClient) -> list[str]:
    """Return how a client's picture differs from the model's."""
    user_id = client.client.user_id
    ignored = world.people[user_id].ever_ignored
    lazy = bool(client.query["filter"]["room"]["state"])
    joined = {room_id for room_id, room in world.rooms.items() if room.membership(user_id) == "join"}
    if set(client.rooms) != joined:
        return [f"{user_id} is in {sorted(joined)}, his client says {sorted(client.rooms)}"]
    faults = []
    for room_id in joined:
        room, mine = world.rooms[room_id], client.rooms[room_id]

        def kept(event_ids: list[str], room: Room = room) -> list[str]:
            events = [room.naive.events[room.index_of[event_id]] for event_id in event_ids]
            return [each["event_id"] for each in events if "state_key" in each or each["sender"] not in ignored]

        if kept(mine.timeline) != kept(room.naive.visible(user_id)):
            faults.append(f"{user_id}, timeline of {room_id} ({client.query})")
        truth, told = room.naive.state_ids(), mine.state
        if lazy:
            wrong = {key for key in told if told[key] != truth.get(key)}
            wrong |= {key for key in truth if key[0] != "m.room.member" and key not in told}
        else:
            wrong = {key for key in told.keys() | truth.keys() if told.get(key) != truth.get(key)}
        if wrong:
            faults.append(f"{user_id}, state of {room_id}: {wrong} ({client.query})")
        if (expected := _expected_counts(room, client)) != (found := client.counts[room_id]):
            faults.append(f"{user_id}, counts of {room_id}: {found}, but {expected} is right ({client.query})")
    return faults


async def _settled(world: Happenings, clients: list[CountingClient]) -> None:
    end = time.monotonic() + _SETTLE_S
    waiting = clients
    while waiting:
        for client in waiting:
            await client.sync()
        faults = {id(client): _faults(world, client) for client in waiting}
        waiting = [client for client in waiting if faults[id(client)]]
        if time.monotonic() > end:
            raise AssertionError([fault for client in waiting for fault in faults[id(client)]])


async def _fresh_clients_see_the_same(world: Happenings, dice: random.Random) -> None:
    """New devices, which page all history: contents too are as they must be now."""
    for human in world.humans:
        client = _client(world.village.new_device(human), dice)
        await client.sync()
        assert not _faults(world, client)
        member = world.people[human.user_id]
        for room_id in client.rooms:
            room = world.rooms[room_id]
            answer = await client.client.room(room_id, "messages", dir="b", limit=1000)
            for event in answer.json["chunk"]:
                assert "state_key" in event or event["sender"] not in member.ignores
                if event["type"] == "m.room.message":
                    assert event["content"] == room.shown_content(human.user_id, event["event_id"]), event


async def _life(fleet: RunningFleet, seed: int, steps: int) -> None:
    dice = random.Random(seed)
    run = f"{next(_runs)}x{seed}"
    village = Village(fleet, dice)
    world = Happenings(village, tuple(f"{name}{run}" for name in ("ann", "ben", "cat", "dan", "eve")), dice)
    clients = [_client(device, dice) for human in (*world.humans, *world.guests) for device in human.devices]
    for _ in range(steps):
        world.any()
        clients = [client for client in clients if client.client.user_id not in world.gone]
        if dice.random() < 0.3:
            await dice.choice(clients).sync()
        if dice.random() < 0.04:
            dice.choice(clients).save()
        if dice.random() < 0.03:
            dice.choice(clients).go_back()
    world.last_messages()
    await _settled(world, clients)
    assert sum(client.gaps for client in clients) > 5
    await _fresh_clients_see_the_same(world, dice)


@pytest.fixture(scope="module")
def village_fleet() -> Iterator[RunningFleet]:
    yield from run_fleet({"fleet": {"event_persister": 2, "synchrotron": 2}, "registration": {"allow_guests": True}})


@pytest.mark.parametrize("seed", range(4))
def test_clients_agree_with_the_model(village_fleet: RunningFleet, seed: int) -> None:
    asyncio.run(_life(village_fleet, seed, _STEPS))


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(4, 40))
def test_clients_agree_with_the_model_for_longer(village_fleet: RunningFleet, seed: int) -> None:
    asyncio.run(_life(village_fleet, seed, 4 * _STEPS))
