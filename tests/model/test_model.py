"""Every client's timelines, state and counts equal those of a simple model after random actions."""

import itertools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.fix_fleet import RunningFleet, run_fleet
from tests.model.checks import check_notifications, check_tags, faults
from tests.model.clients import ClassicClient, Client, classic, sliding
from tests.model.happenings import WEIGHTS, Happenings
from tests.model.people import Village

_runs = itertools.count(1)
_STEPS = 150
_LONG = 600
_SETTLE_S = 20.0
_NAMES = ("ann", "ben", "cat", "dan", "eve")
#: Actions that a run may leave out, so that otherwise rare sequences occur.
_DISPENSABLE = sorted(WEIGHTS.keys() - {"message", "thread_message", "join", "room", "receipt"})
#: No shrinking: a run takes seconds and is not exactly repeatable, because several processes take part.
_HOW = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)


@dataclass(frozen=True, slots=True)
class Plan:
    """A random run.

    seed: for the actions and the clients' settings
    left_out: actions that do not occur
    """

    seed: int
    left_out: frozenset[str]


plans = st.builds(
    Plan, st.integers(0, 2**32 - 1), st.frozensets(st.sampled_from(_DISPENSABLE), max_size=len(_DISPENSABLE) // 2)
)


async def _settled(world: Happenings, clients: list[Client]) -> None:
    end = time.monotonic() + _SETTLE_S
    waiting = clients
    while waiting:
        for client in waiting:
            await client.sync()
        found = {id(client): faults(world, client) for client in waiting}
        waiting = [client for client in waiting if found[id(client)]]
        if waiting and time.monotonic() > end:
            raise AssertionError([fault for client in waiting for fault in found[id(client)]])


async def _fresh_clients_see_the_same(world: Happenings, dice: random.Random) -> None:
    """Check new devices that page all history, including the contents of messages."""
    for human in world.humans:
        device = world.village.new_device(human)
        for client in (classic(device, dice, list(world.people)), sliding(device, dice)):
            await client.sync()
            assert not (found := faults(world, client, fresh=True)), found
        member = world.people[human.user_id]
        for room_id, room in world.rooms.items():
            if room.membership(human.user_id) != "join":
                continue
            answer = await device.room(room_id, "messages", dir="b", limit=1000)
            for event in answer.json["chunk"]:
                assert "state_key" in event or event["sender"] not in member.ignores
                if event["type"] == "m.room.message":
                    assert event["content"] == room.shown_content(human.user_id, event["event_id"]), event


async def _life(fleet: RunningFleet, plan: Plan, steps: int, *, deadly: bool = False) -> None:
    dice = random.Random(plan.seed)
    run = f"{next(_runs)}x{plan.seed}"
    village = Village(fleet, random.Random(plan.seed), deadly=deadly)
    world = Happenings(village, tuple(f"{name}{run}" for name in _NAMES), dice)
    people = (*world.humans, *world.guests)
    clients: list[Client] = [classic(device, dice, list(world.people)) for human in people for device in human.devices]
    clients += [sliding(human.devices[-1], dice) for human in world.humans]
    for number in range(steps):
        world.any(plan.left_out)
        if number == steps // 2:
            world.upgrade()  # too rare in random runs
        clients = [client for client in clients if client.user_id not in world.gone]
        if dice.random() < 0.4:
            await dice.choice(clients).sync()
        jumper = dice.choice(clients)
        if isinstance(jumper, ClassicClient) and dice.random() < 0.1:
            jumper.save() if dice.random() < 0.6 else jumper.go_back()
        if deadly and (number == steps // 2 or dice.random() < 0.01):
            village.kill_a_synchrotron()
    world.last_messages()
    note(f"{world.accepted} attempts were accepted, {world.refused} refused")
    await _settled(world, clients)
    for human in world.humans:
        check_notifications(world, human)
        check_tags(world, human)
    assert world.accepted > world.refused
    assert sum(client.gaps for client in clients if isinstance(client, ClassicClient)) > 5
    await _fresh_clients_see_the_same(world, dice)


_FLEET: dict[str, Any] = {"fleet": {"event_persister": 2, "synchrotron": 2}, "registration": {"allow_guests": True}}


@pytest.fixture(scope="module")
def village_fleet() -> Iterator[RunningFleet]:
    yield from run_fleet(_FLEET)


@pytest.fixture(scope="module")
def mortal_fleet() -> Iterator[RunningFleet]:
    """A fleet that soon notices killed processes."""
    yield from run_fleet({**_FLEET, "replication": {"heartbeat_s": 0.5, "dead_after_s": 1.5}})


@settings(_HOW, max_examples=4)
@given(plan=plans)
async def test_clients_agree_with_the_model(village_fleet: RunningFleet, plan: Plan) -> None:
    await _life(village_fleet, plan, _STEPS)


@pytest.mark.soak
@settings(_HOW, max_examples=40)
@given(plan=plans)
async def test_clients_agree_with_the_model_for_longer(village_fleet: RunningFleet, plan: Plan) -> None:
    await _life(village_fleet, plan, _LONG)


@pytest.mark.soak
@settings(_HOW, max_examples=10)
@given(plan=plans)
async def test_clients_agree_with_the_model_while_synchrotrons_are_killed(
    mortal_fleet: RunningFleet, plan: Plan
) -> None:
    await _life(mortal_fleet, plan, _STEPS, deadly=True)
