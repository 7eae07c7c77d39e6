"""Rooms with forks, compared with a model that keeps every state in full (graph_model.py)."""

import asyncio
import random

import pytest

from shared.core.events import Event
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, event_persister
from tests.workers.event_persister.graph_model import Graph, RandomEvents
from tests.workers.event_persister.graph_rig import (
    BOB,
    CAROL,
    DAVE,
    arrive_as_stored,
    begin,
    compare,
    deliver,
    follow,
    forget_rooms,
    outcomes,
    unstorable,
)


async def random_room(
    persister: Persister, version_name: str, seed: int, steps: int, other: Persister | None = None
) -> Graph:
    """Run a random room and compare it with the model. other: takes the room over now and then."""
    rng = random.Random(seed)
    room_id, graph, alice = await begin(persister, version_name)
    maker = RandomEvents(graph, rng, [BOB, CAROL, DAVE], [alice.user_id])
    for _ in range(steps):
        if rng.random() < 0.1:
            forget_rooms(persister)
            if other is not None:
                forget_rooms(other)
                persister, other = other, persister
                alice = persister.user("alice")
        if rng.random() < 0.25:
            answer = await alice.put_state(room_id, "m.room.topic", {"topic": str(rng.random())})
            if answer.status == 200:
                await follow(persister, room_id, graph)
            continue
        batch: list[Event] = []
        expected: dict[str, str] = {}
        for _ in range(rng.choice([1, 1, 2, 5])):
            event = maker.next()
            if event.event_id not in graph.events:
                batch.append(event)
                expected[event.event_id] = graph.arrive(event)
        assert outcomes(await deliver(persister, room_id, batch)) == expected
    await compare(persister, room_id, graph)
    return graph


@pytest.mark.parametrize("version_name", ["1", "2", "6", "9", "11", "12"])
async def test_random_forks_match_the_model(postgres_module: TestDatabase, version_name: str) -> None:
    """Two persisters take turns and drop the room from memory in between."""
    seen: set[str] = set()
    async with (
        event_persister(postgres_module.dsn) as persister,
        event_persister(postgres_module.dsn) as other,
    ):
        for seed in range(4):
            graph = await random_room(persister, version_name, seed, 30, other)
            seen |= set(graph.outcome.values())
    assert seen == {"accepted", "soft_failed", "rejected"}


@pytest.mark.soak
@pytest.mark.parametrize("version_name", ["1", "3", "6", "8", "10", "11", "12"])
async def test_many_random_forks_match_the_model(postgres: TestDatabase, version_name: str) -> None:
    for seed in range(100, 130):
        async with event_persister(postgres.dsn) as persister, event_persister(postgres.dsn) as other:
            await random_room(persister, version_name, seed, 60, other)


async def crowded_room(persister: Persister, version_name: str, seed: int, events: int, *, poison: bool) -> Graph:
    """Deliver and send concurrently: the outcome equals the events applied in the order of their positions."""
    rng = random.Random(seed)
    room_id, shadow, alice = await begin(persister, version_name)
    model = Graph(shadow.version, shadow.create)
    maker = RandomEvents(shadow, rng, [BOB, CAROL, DAVE], [alice.user_id])
    made: list[Event] = []
    while len(made) < events:
        event = maker.next()
        if event.event_id not in shadow.events:
            shadow.arrive(event)
            made.append(event)
    refused = [await unstorable(persister, shadow) for _ in range(4)] if poison else []
    waiting = [*made, *refused]

    async def deliver_some() -> None:
        await asyncio.sleep(rng.random() / 20)
        some = rng.sample(waiting, min(len(waiting), rng.randrange(1, 12)))
        batch = [event for event in some for _ in range(rng.choice([1, 1, 2]))]
        for event_id, outcome in outcomes(await deliver(persister, room_id, batch)).items():
            assert (outcome == "dropped") == (event_id in {event.event_id for event in refused})
            if outcome != "missing":
                waiting[:] = [event for event in waiting if event.event_id != event_id]

    async def send_some() -> None:
        await asyncio.sleep(rng.random() / 20)
        answer = await alice.send(room_id, "hello")
        assert answer.status in (200, 403)

    while waiting:
        await asyncio.gather(*(deliver_some() for _ in range(6)), *(send_some() for _ in range(3)))
        if rng.random() < 0.2:
            forget_rooms(persister)
    await arrive_as_stored(persister, room_id, model)
    assert {event.event_id for event in made} <= model.events.keys()
    await compare(persister, room_id, model)
    return model


@pytest.mark.parametrize("version_name", ["6", "12"])
async def test_concurrent_deliveries_and_sends_match_the_model(
    postgres_module: TestDatabase, version_name: str
) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        for seed in range(3):
            await crowded_room(persister, version_name, seed, 40, poison=False)


@pytest.mark.parametrize("version_name", ["1", "2"])
async def test_event_refused_by_the_database_does_not_affect_others(
    postgres_module: TestDatabase, version_name: str
) -> None:
    """Events that were built on it are built again."""
    async with event_persister(postgres_module.dsn) as persister:
        for seed in range(3):
            await crowded_room(persister, version_name, seed, 30, poison=True)


@pytest.mark.soak
async def test_many_concurrent_deliveries_and_sends_match_the_model(postgres: TestDatabase) -> None:
    for seed in range(40):
        async with event_persister(postgres.dsn) as persister:
            await crowded_room(persister, ["1", "10"][seed % 2], seed, 60, poison=seed % 2 == 0)
