"""Long branches, many extremities, dummy events: stored state stays small, and time per event bounded."""

import asyncio
import time

import pytest

from shared.core.events import Event
from shared.core.identifiers import RoomId
from tests.fix_servers import TestDatabase
from tests.rigs.persister import Persister, User, event_persister
from tests.workers.event_persister.graph_model import Graph
from tests.workers.event_persister.graph_rig import (
    BOB,
    arrive_as_stored,
    begin,
    check_stored,
    compare,
    deliver,
    extremities,
    follow,
    forget_rooms,
    outcomes,
    tied_together,
)
from workers.event_persister.graph.dummy_events import MAX_EXTREMITIES


async def with_bob(persister: Persister, version_name: str = "10") -> tuple[RoomId, Graph, User, Event]:
    room_id, graph, alice = await begin(persister, version_name)
    bob = graph.make(sorted(graph.extremities), BOB, "m.room.member", {"membership": "join"}, BOB)
    graph.arrive(bob)
    await deliver(persister, room_id, [bob])
    return room_id, graph, alice, bob


async def snapshot_rows(persister: Persister, room_id: RoomId) -> list[tuple[int, int, int]]:
    """Return (steps, entries, events that use it) of each snapshot."""
    rows = await persister.sql(
        """SELECT s.steps, cardinality(s.added) + cardinality(s.removed),
                  (SELECT count(*) FROM events e WHERE e.room_nid = s.room_nid AND e.state_nid = s.nid)
           FROM state_snapshots s JOIN rooms USING (room_nid) WHERE room_id = $1""",
        room_id,
    )
    return [tuple(row) for row in rows]


@pytest.mark.parametrize("size", [1, 50])
async def test_long_branch_beside_a_live_timeline(postgres_module: TestDatabase, size: int) -> None:
    """State changes on a branch, delivered one by one or 50 at once, with messages among them."""
    count = 300 if size > 1 else 60
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        at, branch = bob, list[Event]()
        for number in range(count):
            for _ in range(2 if number % 5 == 0 else 1):
                key = None if len(branch) % 3 == 2 else str(number)
                at = graph.make([at.event_id], BOB, "org.example.x", {"n": number}, key, auth_in=graph.current)
                graph.arrive(at)
                branch.append(at)
        for first in range(0, len(branch), size):
            results = outcomes(await deliver(persister, room_id, branch[first : first + size]))
            assert set(results.values()) == {"accepted"}
            if first % 10 == 0:
                await alice.put_state(room_id, "m.room.topic", {"topic": str(first)})
            if first % 100 == 50:
                forget_rooms(persister)
        await check_stored(persister, room_id)


@pytest.mark.parametrize("at_once", [1, 40])
async def test_unmerged_branch_is_stored_in_steps(postgres_module: TestDatabase, at_once: int) -> None:
    """The branch is soft-failed, because Bob has left the room."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        leave = graph.make([bob.event_id], BOB, "m.room.member", {"membership": "leave"}, BOB)
        graph.arrive(leave)
        await deliver(persister, room_id, [leave])
        at, branch = bob, list[Event]()
        for number in range(120):
            key = None if number % 4 == 3 else f"k{number}"
            at = graph.make([at.event_id], BOB, "org.example.x", {"n": number}, key, auth_in=graph.after(bob.event_id))
            assert graph.arrive(at) == "soft_failed"
            branch.append(at)
        for first in range(0, len(branch), at_once):
            assert set(outcomes(await deliver(persister, room_id, branch[first : first + at_once])).values()) == {
                "soft_failed"
            }
        snapshots = await snapshot_rows(persister, room_id)
        states = 90
        assert len(snapshots) <= states + 2, "messages share the snapshots of their predecessors"
        assert max(steps for steps, _, _ in snapshots) > 60
        assert sum(entries for _, entries, _ in snapshots) <= states * 5 + 16 * 16
        assert any(uses > 1 for _, _, uses in snapshots)
        assert (await alice.send(room_id, "hi")).status == 200
        await follow(persister, room_id, graph)
        await compare(persister, room_id, graph)


async def test_branch_from_an_old_event_takes_little_space(postgres_module: TestDatabase) -> None:
    """The branch's state is stored relative to the timeline at its start, not to its current end."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, bob = await with_bob(persister)
        for number in range(60):
            await alice.put_state(room_id, "org.example.s", {"n": number}, str(number))
        await follow(persister, room_id, graph)
        old = graph.make([bob.event_id], BOB, "m.room.topic", {"topic": "late"}, "")
        assert outcomes(await deliver(persister, room_id, [old])) == {old.event_id: graph.arrive(old)}
        assert [entries for _, entries, _ in await snapshot_rows(persister, room_id)] == [0]
        await compare(persister, room_id, graph)


async def many_extremities(
    persister: Persister, count: int, version_name: str = "10"
) -> tuple[RoomId, Graph, User, list[Event]]:
    room_id, graph, alice, bob = await with_bob(persister, version_name)
    forks = [
        graph.make([bob.event_id], BOB, "m.room.message", {"n": n}, auth_in=graph.after(bob.event_id))
        for n in range(count)
    ]
    return room_id, graph, alice, forks


@pytest.mark.parametrize("version_name", ["1", "10"])
async def test_dummy_events_merge_extremities(postgres_module: TestDatabase, version_name: str) -> None:
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, forks = await many_extremities(persister, 45, version_name)
        assert set(outcomes(await deliver(persister, room_id, forks)).values()) == {"accepted"}
        await tied_together(persister, room_id)
        await arrive_as_stored(persister, room_id, graph)
        dummies = [event for event in graph.events.values() if event.type == "org.matrix.dummy_event"]
        assert dummies and max(len(event.prev_event_ids) for event in dummies) <= 20
        await compare(persister, room_id, graph)


async def test_extremities_stay_few_under_many_forks(postgres_module: TestDatabase) -> None:
    """Calls queue for the room. Each has more forks than one event may name, with different states."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, _, bob = await with_bob(persister)
        state, per_call = graph.after(bob.event_id), 60
        forks = [
            graph.make([bob.event_id], BOB, f"org.example.{n}", {"n": n}, str(n % 7) if n % 3 else None, auth_in=state)
            for n in range(5 * per_call)
        ]
        calls = [forks[first : first + per_call] for first in range(0, len(forks), per_call)]
        most = 0

        async def deliver_one(call: list[Event]) -> None:
            nonlocal most
            assert set(outcomes(await deliver(persister, room_id, call)).values()) == {"accepted"}
            most = max(most, await extremities(persister, room_id))

        await asyncio.gather(*map(deliver_one, calls))
        # The number that one event may name, one call's forks, and dummy events that came too late.
        assert most < 3 * MAX_EXTREMITIES + per_call, most
        await tied_together(persister, room_id)
        await arrive_as_stored(persister, room_id, graph)
        await compare(persister, room_id, graph)


async def test_next_local_event_merges_extremities_when_no_dummy_event_is_allowed(
    postgres_module: TestDatabase,
) -> None:
    """A local event names 20 of the extremities."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, _ = await many_extremities(persister, 0)
        levels = await persister.content(room_id, "m.room.power_levels")
        levels["events"] = {**levels.get("events", {}), "org.matrix.dummy_event": 100}
        levels["users"][alice.user_id] = 50
        assert (await alice.put_state(room_id, "m.room.power_levels", levels)).status == 200
        await follow(persister, room_id, graph)
        [end] = graph.extremities
        forks = [graph.make([end], BOB, "m.room.message", {"n": n}) for n in range(30)]
        await deliver(persister, room_id, forks)
        await asyncio.sleep(0.2)
        assert await extremities(persister, room_id) == 30
        forget_rooms(persister)
        sent = (await alice.send(room_id, "hi")).event_id
        assert await extremities(persister, room_id) == 11
        await arrive_as_stored(persister, room_id, graph)
        assert len(graph.events[sent].prev_event_ids) == 20
        await compare(persister, room_id, graph)


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.soak)])
async def test_room_with_a_thousand_extremities_stays_fast(postgres_module: TestDatabase, count: int) -> None:
    """Each extremity has its own state. An event takes a few milliseconds per hundred extremities."""
    async with event_persister(postgres_module.dsn) as persister:
        room_id, graph, alice, _ = await many_extremities(persister, 0)
        levels = await persister.content(room_id, "m.room.power_levels")
        levels["events"] = {**levels.get("events", {}), "org.matrix.dummy_event": 100}
        levels["users"][alice.user_id] = 50
        await alice.put_state(room_id, "m.room.power_levels", levels)
        await follow(persister, room_id, graph)
        [end] = graph.extremities
        state = graph.current
        forks = [graph.make([end], BOB, "m.room.topic", {"topic": str(n)}, "", auth_in=state) for n in range(count)]
        took = 0.0  # CPU time of this process
        for first in range(0, count, 100):
            started = time.process_time()
            results = outcomes(await deliver(persister, room_id, forks[first : first + 100]))
            took = (time.process_time() - started) / 100
            assert set(results.values()) == {"accepted"}
        assert await extremities(persister, room_id) == count
        assert took < 0.1 * count / 300, took
        started = time.process_time()
        assert (await alice.send(room_id, "hi")).status == 200
        assert time.process_time() - started < 2
        assert await extremities(persister, room_id) == count - 19
        forget_rooms(persister)
        started = time.process_time()
        assert (await alice.send(room_id, "hi")).status == 200
        print(f"{took * 1000:.1f} ms per event, loading and one: {time.process_time() - started:.2f} s")
