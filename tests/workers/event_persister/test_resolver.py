"""State resolution in threads: events from a real PostgreSQL, lanes, bounds, and pauses of the event loop."""

import asyncio
import contextlib
import gc
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from load.state_resolution import FOUNDER, MadeUpRoom, everything, overlays, small
from shared.core.errors import Unavailable
from shared.core.identifiers import EventId
from shared.core.room_versions import get_room_version
from shared.core.state_resolution import Overlay, StateKey, resolve_overlays
from shared.metrics.resolution import ResolutionMetrics
from shared.runtime.clock import SystemClock
from shared.storage.engine.pool import Database, connector
from shared.storage.events.auth_chains import ChainEvent, get_auth_chain_page
from tests.fix_servers import TestDatabase
from tests.rigs.loop_pauses import LoopPauses
from tests.workers.event_persister.stored_rooms import store_room
from workers.event_persister.graph.resolution_events import BudgetShare, NoMemory, ResolutionBudget, Stopped, TooMuch
from workers.event_persister.graph.resolver import Load, Resolver, ResolverBounds, RoomForResolution

VERSIONS = ["1", "11", "12"]
POWER_LEVELS = ("m.room.power_levels", "")


class Loads:
    """Loads rooms from the database and counts pages and events."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.pages = 0
        self.events = 0

    async def __call__(self, room_nid: int, event_ids: Sequence[EventId], max_events: int) -> Sequence[ChainEvent]:
        rows = await get_auth_chain_page(self.database, room_nid, event_ids, max_events=max_events, max_bytes=1 << 20)
        self.pages += 1
        self.events += len(rows)
        return rows


@asynccontextmanager
async def resolver(load: Load, bounds: ResolverBounds | None = None) -> AsyncIterator[Resolver]:
    made = Resolver(load, SystemClock(), ResolutionMetrics(CollectorRegistry()), bounds=bounds)
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def loads(postgres: TestDatabase) -> AsyncIterator[Loads]:
    database = Database(connector(postgres.dsn, pgbouncer=False), max_connections=2)
    try:
        yield Loads(database)
    finally:
        await database.close()


async def never(room_nid: int, event_ids: Sequence[EventId], max_events: int) -> Sequence[ChainEvent]:
    await asyncio.get_running_loop().create_future()
    raise AssertionError


def made_up(version: str, members: int = 300, changes: int = 2, fights: int = 5) -> MadeUpRoom:
    return MadeUpRoom(get_room_version(version), members, changes, fights)


def in_memory(room: MadeUpRoom, room_nid: int = 1) -> RoomForResolution:
    return RoomForResolution(room_nid, room.version, room.create, room.events.get)


def in_database(room: MadeUpRoom, room_nid: int = 1) -> RoomForResolution:
    return RoomForResolution(room_nid, room.version, room.create, {room.create.event_id: room.create}.get)


def expected(
    room: MadeUpRoom, branches: Sequence[Overlay], rejected: frozenset[str] = frozenset()
) -> dict[StateKey, EventId | None]:
    return resolve_overlays(
        room.version, room.state, branches, room.find, rejected=rejected.__contains__, create=room.create
    )


# --- loading -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
async def test_resolution_is_the_same_from_database_and_memory(postgres: TestDatabase, version: str) -> None:
    room = made_up(version)
    cases = [small(room, 0), overlays(room, 40), everything(room, 0)]
    await store_room(postgres.dsn, room, 1)
    for branches in cases:
        async with loads(postgres) as load, resolver(load) as resolver_:
            assert await resolver_.resolve(in_database(room), room.state, branches) == expected(room, branches)
            assert load.pages <= 60
            # The second time everything is in memory.
            pages = load.pages
            assert await resolver_.resolve(in_database(room), room.state, branches) == expected(room, branches)
            assert load.pages == pages


async def test_many_forks_load_each_event_about_once(postgres: TestDatabase) -> None:
    room = made_up("12", members=200, fights=100)
    branches = overlays(room, 200)
    await store_room(postgres.dsn, room, 1)
    async with loads(postgres) as load, resolver(load) as resolver_:
        for branch in branches:
            pair = [branch, {}]
            assert await resolver_.resolve(in_database(room), room.state, pair) == expected(room, pair)
        assert load.events < 4 * len(room.events)  # 100 power levels in each of 200 chains


async def test_small_conflict_loads_little_of_a_long_past(postgres: TestDatabase) -> None:
    room = made_up("11", members=3000, changes=3, fights=30)
    branches = small(room, 0)
    await store_room(postgres.dsn, room, 1)
    async with loads(postgres) as load, resolver(load) as resolver_:
        assert await resolver_.resolve(in_database(room), room.state, branches) == expected(room, branches)
        assert load.events < 300
        assert load.pages < 20


@pytest.mark.parametrize("version", VERSIONS)
async def test_resolution_with_missing_and_rejected_events(postgres: TestDatabase, version: str) -> None:
    room = made_up(version, members=150, fights=20)
    branches = small(room, 0)
    levels = [event.event_id for event in room.events.values() if event.type == "m.room.power_levels"]
    missing, rejected = frozenset(levels[3:5]), frozenset(levels[-1:])
    branches[0]["m.room.name", ""] = EventId("$nobody has\x00 this")  # type: ignore[index]
    await store_room(postgres.dsn, room, 1, missing=missing, rejected=rejected)
    for gone in missing:
        del room.events[EventId(gone)]
    async with loads(postgres) as load, resolver(load) as resolver_:
        result = await resolver_.resolve(in_database(room), room.state, branches)
    assert result == expected(room, branches, rejected)


async def test_resolution_uses_the_redacted_form_of_events(postgres: TestDatabase) -> None:
    """In version 10 a redacted power-levels event no longer says who may invite."""
    room = made_up("10", members=3)
    levels = dict(room.events[room.state[POWER_LEVELS]].content)
    strict = room.send(room.state, "m.room.power_levels", FOUNDER, "", {**levels, "invite": 75})
    invited = ("m.room.member", "@late:m.example")
    invite = room.send(dict(room.state), invited[0], room.users[0], invited[1], {"membership": "invite"})
    branches: list[Overlay] = [{invited: invite.event_id}, {}]
    await store_room(postgres.dsn, room, 1)
    async with loads(postgres) as load, resolver(load) as resolver_:
        target = in_database(room)
        assert await resolver_.resolve(target, room.state, branches) == {}
        await load.database.execute("UPDATE events SET redacted_by = 1 WHERE event_id = $1", strict.event_id)
        assert await resolver_.resolve(target, room.state, branches) == {}, "the event is cached until `forget`"
        resolver_.forget([strict.event_id])
        assert await resolver_.resolve(target, room.state, branches) == {invited: invite.event_id}


# --- threads -------------------------------------------------------------------------------------------------


async def big_beside_small(postgres: TestDatabase, big: MadeUpRoom) -> tuple[float, int]:
    """Resolve a large room in which everything conflicts, and a small one repeatedly beside it, without a cache.

    Returns the loop's longest step in seconds and the number of small resolutions.
    """
    little = made_up("11")
    gc.freeze()  # a persister does not hold a room's whole history for the collector to scan
    branches, few = everything(big, 0), small(little, 0)
    await store_room(postgres.dsn, little, 2)
    agreed = expected(little, few)
    assert agreed
    async with loads(postgres) as load, resolver(load, ResolverBounds(cache_bytes=0)) as resolver_:
        rounds = 0
        async with LoopPauses() as pauses:
            task = asyncio.create_task(resolver_.resolve(in_memory(big), big.state, branches))
            while not task.done():
                assert await resolver_.resolve(in_database(little, 2), little.state, few) == agreed
                rounds += 1
                await asyncio.sleep(0.02)
        assert await task == expected(big, branches)
        gc.unfreeze()
        return pauses.all_s[0], rounds


async def test_large_resolution_blocks_neither_the_loop_nor_small_ones(postgres: TestDatabase) -> None:
    pause_s, rounds = await big_beside_small(postgres, made_up("12", members=15_000, changes=1))
    print(f"longest step {pause_s * 1000:.1f} ms, {rounds} small resolutions beside the big one")
    assert pause_s < 0.05
    assert rounds > 5


@pytest.mark.soak
@pytest.mark.parametrize("version", VERSIONS)
async def test_two_overlays_of_50000_entries_do_not_block_the_loop(postgres: TestDatabase, version: str) -> None:
    big = made_up(version, members=50_000, changes=4, fights=200)
    pause_s, rounds = await big_beside_small(postgres, big)
    assert pause_s < 0.05
    assert rounds > 5


async def test_growing_resolution_moves_to_the_big_lane_with_its_events(postgres: TestDatabase) -> None:
    room, registry = made_up("12"), CollectorRegistry()
    few = small(room, 0)
    await store_room(postgres.dsn, room, 1)
    async with loads(postgres) as load:
        bounds = ResolverBounds(quick_lookups=50, cache_bytes=0)
        made = Resolver(load, SystemClock(), ResolutionMetrics(registry), bounds=bounds)
        assert await made.resolve(in_database(room), room.state, few) == expected(room, few)
        await made.close()
        assert load.events < 200
    seconds = "skep_state_resolution_seconds_count"
    assert registry.get_sample_value(seconds, {"lane": "big"}) == 1
    assert registry.get_sample_value(seconds, {"lane": "quick"}) is None


async def test_cancelled_resolution_frees_its_lane() -> None:
    big, little = made_up("12", members=15_000, changes=1), made_up("11")
    branches, few = everything(big, 0), small(little, 0)
    async with resolver(never) as resolver_:
        loading = asyncio.create_task(resolver_.resolve(in_database(little, 2), little.state, few))
        working = asyncio.create_task(resolver_.resolve(in_memory(big), big.state, branches))
        queued = asyncio.create_task(resolver_.resolve(in_memory(big), big.state, branches))
        await asyncio.sleep(0.1)
        assert (resolver_._quick.waiting, resolver_._big.waiting) == (1, 2)
        for task in (loading, working, queued):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        assert (resolver_._quick.waiting, resolver_._big.waiting) == (0, 0)
        async with asyncio.timeout(5):
            assert await resolver_.resolve(in_memory(big), big.state, branches) == expected(big, branches)
    assert sys.getswitchinterval() == pytest.approx(0.005)


async def test_close_ends_waiting_resolutions() -> None:
    room = made_up("12")
    few = small(room, 0)
    made = Resolver(never, SystemClock(), ResolutionMetrics(CollectorRegistry()))
    tasks = [asyncio.create_task(made.resolve(in_database(room), room.state, few)) for _ in range(5)]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(2):
        await made.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(result, Unavailable) for result in results)
    with pytest.raises(Unavailable):
        await made.resolve(in_database(room), room.state, few)


# --- bounds --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bounds", [ResolverBounds(max_events=500), ResolverBounds(max_bytes=200_000)])
async def test_resolution_that_loads_too_much_fails(postgres: TestDatabase, bounds: ResolverBounds) -> None:
    room = made_up("12")
    branches, few = everything(room, 0), small(room, 0)
    await store_room(postgres.dsn, room, 1)
    async with loads(postgres) as load, resolver(load, bounds) as resolver_:
        with pytest.raises(Unavailable):
            await resolver_.resolve(in_database(room), room.state, branches)
        assert load.events < 2000
        assert await resolver_.resolve(in_database(room), room.state, few) == expected(room, few)


async def test_resolutions_share_one_budget_and_give_it_back(postgres: TestDatabase) -> None:
    """A resolution that finds the memory taken may be tried again later. Its room is not at fault."""
    room = made_up("12")
    branches = everything(room, 0)
    await store_room(postgres.dsn, room, 1)
    bounds = ResolverBounds(max_bytes=64 << 20)
    async with loads(postgres) as load, resolver(load, bounds) as resolver_:
        resolver_.budget.taken_bytes = bounds.max_bytes
        with pytest.raises(NoMemory):
            await resolver_.resolve(in_database(room), room.state, branches)
        resolver_.budget.taken_bytes = 0
        assert await resolver_.resolve(in_database(room), room.state, branches) == expected(room, branches)
        assert resolver_.budget.taken_bytes == 0


def test_share_of_the_budget_covers_what_it_may() -> None:
    budget = ResolutionBudget(4 << 20)
    one, other = BudgetShare(budget), BudgetShare(budget)
    one.cover(100)
    other.cover(3 << 20)
    assert budget.taken_bytes == 4 << 20
    with pytest.raises(NoMemory):
        one.cover(2 << 20)
    with pytest.raises(TooMuch):
        one.cover((4 << 20) + 1)
    other.close()
    one.cover(4 << 20)
    assert budget.taken_bytes == 4 << 20
    with pytest.raises(Stopped):
        other.cover(1)
    one.close()
    assert budget.taken_bytes == 0


async def test_resolution_time_and_queue_are_bounded() -> None:
    room = made_up("12")
    few = small(room, 0)
    async with resolver(never, ResolverBounds(max_waiting=3, max_s=0.3)) as resolver_:
        tasks = [resolver_.resolve(in_database(room), room.state, few) for _ in range(5)]
        results = await asyncio.gather(*tasks, return_exceptions=True)  # what they load never comes
        assert all(isinstance(result, Unavailable) for result in results)


async def test_database_error_reaches_the_caller() -> None:
    async def away(room_nid: int, event_ids: Sequence[EventId], max_events: int) -> Sequence[ChainEvent]:
        raise Unavailable("The database is not available just now")

    room = made_up("12")
    async with resolver(away) as resolver_:
        with pytest.raises(Unavailable, match="database"):
            await resolver_.resolve(in_database(room), room.state, small(room, 0))
