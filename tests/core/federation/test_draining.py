"""Draining: no row is lost, no room holds up another, all is bounded, whatever fails."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from shared.core.federation.draining_records import (
    Answered,
    DrainLimits,
    Fetched,
    FetchKind,
    Outcome,
    RetryRoom,
)
from shared.core.federation.wake_up import TimePassed
from tests.core.federation.draining_model import DrainWorld

SMALL = DrainLimits(
    places=2,
    slow_places=2,
    history_places=1,
    places_per_peer=2,
    fetches=2,
    slow_fetches=1,
    fetches_per_peer=1,
    batch=3,
    quantum=4_000,
    longest_debt=40_000,
    window=4,
    rooms=4,
)
ROOMS = st.integers(1, 7)


class DrainMachine(RuleBasedStateMachine):
    """Random histories with lost, doubled and late answers, restarts and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.world = DrainWorld(SMALL)

    @rule(room=ROOMS, origin=st.sampled_from("abc"), count=st.integers(1, 9), history=st.booleans())
    def pdus_are_staged(self, room: int, origin: str, count: int, history: bool) -> None:
        self.world.stage(room, origin, count=count, history=history)

    @precondition(lambda self: self.world.deliveries)
    @rule(data=st.data(), jitter=st.floats(0, 1))
    def an_owner_answers(self, data: st.DataObject, jitter: float) -> None:
        delivery = data.draw(st.sampled_from(sorted(self.world.deliveries)))
        positions = self.world.deliveries[delivery].positions
        outcomes = {position: data.draw(st.sampled_from(Outcome)) for position in positions}
        self.world.answer(delivery, outcomes, jitter)

    @precondition(lambda self: self.world.deliveries)
    @rule(data=st.data())
    def an_answer_is_lost(self, data: st.DataObject) -> None:
        self.world.answer(data.draw(st.sampled_from(sorted(self.world.deliveries))), {})

    @rule(number=st.integers(0, 30))
    def an_answer_comes_again(self, number: int) -> None:
        if number not in self.world.deliveries:
            self.world.step(Answered(delivery=number, outcomes={}, jitter=0.5))
        if number not in self.world.fetches:
            self.world.step(Fetched(fetch=number, helped=True, jitter=0.5))

    @precondition(lambda self: self.world.fetches)
    @rule(data=st.data(), helped=st.booleans())
    def a_fetch_ends(self, data: st.DataObject, helped: bool) -> None:
        self.world.end_fetch(data.draw(st.sampled_from(sorted(self.world.fetches))), helped=helped)

    @precondition(lambda self: self.world.writes)
    @rule()
    def rows_are_written(self) -> None:
        self.world.write()

    @precondition(lambda self: self.world.reads)
    @rule()
    def a_room_is_read(self) -> None:
        self.world.read()

    @precondition(lambda self: self.world.finds)
    @rule()
    def rooms_are_found(self) -> None:
        self.world.find()

    @rule(ms=st.sampled_from([10, 500, 2_000, 60_000, 700_000]))
    def time_passes(self, ms: int) -> None:
        self.world.advance(ms)

    @rule()
    def the_timer_is_wrong(self) -> None:
        self.world.step(TimePassed())

    @rule(room=ROOMS)
    def an_operator_retries(self, room: int) -> None:
        self.world.step(RetryRoom(room=room))

    @rule()
    def the_process_dies(self) -> None:
        self.world.restart()

    @rule(room=ROOMS)
    def a_slot_goes_and_comes_back(self, room: int) -> None:
        self.world.slot_goes_and_comes_back(room)

    def teardown(self) -> None:
        self.world.settle()
        assert all(self.world.finals[position] for position in self.world.staged)
        assert self.world.draining.rooms == self.world.draining.pdus == 0


DrainMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestDrainMachine = DrainMachine.TestCase


def test_a_slow_room_holds_one_place_once() -> None:
    world = DrainWorld(DrainLimits(places=4, slow_places=2))
    world.database_works()
    slow = range(100, 103)
    for room in slow:
        world.stage(room, f"s{room}", count=200)
    world.stage(1, count=60)
    for delivery in [number for number, one in world.deliveries.items() if one.room in slow]:
        world.now_ms += 500
        world.advance(0)
        world.now_ms += 1_500
        world.answer(delivery, Outcome.FINAL)
    world.database_works()
    # Two slow rooms have a slow place now, the third waits. All four places are free for others.
    assert sum(one.room in slow for one in world.deliveries.values()) == 2
    for room in range(2, 5):
        world.stage(room, f"f{room}")
    assert {one.room for one in world.deliveries.values()} >= {1, 2, 3, 4}
    world.settle()


def test_rooms_share_by_cost() -> None:
    world = DrainWorld(DrainLimits(places=1, places_per_peer=1, quantum=60_000, window=1_000, cost_per_ms=0))
    world.stage(9)
    world.stage(1, count=200, cost=60_000)
    world.stage(2, count=800, cost=6_000)
    cost = {1: 0, 2: 0, 9: 0}
    while len(world.started) < 60:
        one = world.started[-1]
        cost[one.room] += sum(world.staged[position].cost for position in one.positions)
        world.answer(one.delivery, Outcome.FINAL)
        world.database_works()
        assert abs(cost[1] - cost[2]) <= 3 * 60_000
    assert cost[1] > 1_000_000


def test_a_delivery_that_takes_long_is_charged_to_its_room() -> None:
    world = DrainWorld(DrainLimits(places=1, window=2_000, batch=1))
    for room in (1, 2):
        world.stage(room, count=200)
    turns = {1: 0, 2: 0}
    for _ in range(60):
        (delivery,) = world.deliveries
        room = world.deliveries[delivery].room
        turns[room] += 1
        world.now_ms += 900 if room == 1 else 1
        world.answer(delivery, Outcome.FINAL)
        world.database_works()
    assert turns[2] > 3 * turns[1] > 0
    world.settle()


def test_live_events_come_before_history() -> None:
    world = DrainWorld(DrainLimits(places=4, history_places=1))
    world.stage(1, "h1", count=90, history=True)
    for room in range(2, 6):
        world.stage(room, f"h{room}", count=3, history=True)
    world.stage(2, "live")
    assert [(one.room, world.staged[one.positions[0]].is_history) for one in world.deliveries.values()] == [
        (1, True),
        (2, False),
    ]
    world.stage(1, "live")
    world.answer(1, Outcome.FINAL)
    assert not world.staged[next(one for one in world.deliveries.values() if one.room == 1).positions[0]].is_history
    world.settle()


def test_one_peer_does_not_take_all_places() -> None:
    world = DrainWorld(DrainLimits(places=8, places_per_peer=4))
    for room in range(1, 500):
        world.stage(room, "flood")
    world.stage(1_000, "good")
    world.stage(1, "good")  # beside the flood of the same room
    assert len(world.deliveries) == 5
    assert world.started[-1].room == 1_000
    world.answer(world.started[-1].delivery, Outcome.FINAL)
    world.settle()


def test_a_pdu_without_a_key_holds_no_other_pdu() -> None:
    world = DrainWorld(DrainLimits())
    world.stage(1, "nokey", count=150)
    world.stage(1, "good")
    for _ in range(10):
        world.database_works()
        for delivery, action in list(world.deliveries.items()):
            world.answer(
                delivery,
                {p: Outcome.LATER if world.staged[p].origin == "nokey" else Outcome.FINAL for p in action.positions},
            )
    assert world.finals[151]
    assert len(world.rows) == 150
    assert world.draining.pdus == 0  # they are rows, until their time comes
    world.settle()


def test_missing_events_are_asked_some_rounds_then_the_state_from_each_server() -> None:
    world = DrainWorld(DrainLimits())
    world.stage(1, "a", count=2)
    world.stage(1, "b")
    while world.deliveries:
        world.answer(next(iter(world.deliveries)), Outcome.MISSING)
    for _ in range(30):
        if world.fetches:
            world.end_fetch(next(iter(world.fetches)), helped=len(world.fetched) < 3)
        elif world.deliveries:
            world.answer(next(iter(world.deliveries)), Outcome.MISSING)
        else:
            break
    kinds = [one.kind for one in world.fetched]
    missing = kinds.count(FetchKind.MISSING_EVENTS)
    assert 0 < missing <= 4
    assert kinds == [FetchKind.MISSING_EVENTS] * missing + [FetchKind.STATE] * 2
    assert {one.peer for one in world.fetched if one.kind is FetchKind.STATE} == {"a", "b"}
    assert [len(write.put_off) for write in world.writes] == [3]
    world.settle()


def test_a_fetch_that_takes_long_holds_no_other_room() -> None:
    world = DrainWorld(DrainLimits(fetches=2, fetches_per_peer=1))
    for room in range(1, 6):
        world.stage(room, "slow")
        world.answer(world.started[-1].delivery, Outcome.MISSING)
    world.stage(7, "quick")
    world.answer(world.started[-1].delivery, Outcome.MISSING)
    assert [(one.room, one.peer) for one in world.fetches.values()] == [(1, "slow"), (7, "quick")]
    world.stage(8, "slow")
    assert world.started[-1].room == 8
    world.settle()


def test_servers_that_do_not_answer_leave_places_for_fetches_from_others() -> None:
    world = DrainWorld(DrainLimits(fetches=4, slow_fetches=2))
    world.database_works()

    def lacks_events(room: int, peer: str) -> None:
        world.stage(room, peer)
        world.answer(world.started[-1].delivery, Outcome.MISSING)

    for number in range(20):
        lacks_events(number, f"dead{number}")
    for _ in range(5):  # each of the 20 holds a place once, as nobody knew that it is dead
        world.advance(10_000)
        for fetch in list(world.fetches):
            world.end_fetch(fetch, helped=False)
    world.advance(10_000)
    for number in range(100, 110):
        lacks_events(number, f"quick{number}")
        assert world.fetched[-1].room == number
        world.end_fetch(world.fetched[-1].fetch, helped=True)
        world.answer(world.started[-1].delivery, Outcome.FINAL)
    world.settle()


def test_back_off_of_a_pdu_survives_a_restart() -> None:
    world = DrainWorld(DrainLimits())
    world.stage(1)
    waits = []
    for _ in range(6):
        world.database_works()
        (delivery,) = world.deliveries
        world.answer(delivery, Outcome.LATER, 0.0)
        world.database_works()
        waits.append(world.rows[1].next_try_ms - world.now_ms)
        world.restart()
        world.database_works()
        assert not world.deliveries
        world.advance(waits[-1] - 1)
        world.database_works()
        assert not world.deliveries
        world.advance(2_000)
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]


def test_more_rooms_than_memory_are_drained_by_their_time() -> None:
    world = DrainWorld(DrainLimits(rooms=10, places=2))
    for room in range(1, 100):
        world.stage(room, f"o{room}", count=3)
    assert world.draining.rooms == 10
    world.settle()
    assert len(world.finals) == 297


def test_a_pdu_that_was_put_off_is_tried_again_by_the_timer() -> None:
    world = DrainWorld(DrainLimits())
    world.database_works()
    world.stage(1)
    world.answer(1, Outcome.LATER)
    world.database_works()
    assert (len(world.rows), world.draining.pdus) == (1, 0)
    assert world.wake_at_ms == world.rows[1].next_try_ms
    world.advance(world.rows[1].next_try_ms - world.now_ms)
    world.database_works()
    assert [one.positions for one in world.deliveries.values()] == [(1,)]


def test_rooms_that_wait_for_a_time_leave_memory_to_others() -> None:
    world = DrainWorld(DrainLimits(rooms=10))
    world.database_works()
    for room in range(1, 30):
        world.stage(room, f"o{room}")
        world.answer(world.started[-1].delivery, Outcome.LATER)
        world.database_works()
        assert world.draining.rooms <= 6
    world.settle()


def test_pdus_of_a_peer_without_a_place_stay_in_order_behind_those_of_others() -> None:
    world = DrainWorld(DrainLimits(places_per_peer=1))
    world.database_works()
    world.stage(1, "a")
    world.stage(2, "b", count=2)
    world.stage(2, "a")
    world.stage(2, "b")
    world.answer(2, Outcome.FINAL)
    assert world.started[-1].positions == (5,)
    world.answer(world.started[-1].delivery, Outcome.FINAL)
    assert 2 not in {one.room for one in world.deliveries.values()}
    world.answer(1, Outcome.FINAL)
    assert world.started[-1].positions == (4,)
    world.settle()


def test_rows_staged_while_a_room_is_read_come_after_older_ones() -> None:
    world = DrainWorld(DrainLimits(window=3))
    world.database_works()
    world.stage(1, count=6)
    world.answer(world.started[-1].delivery, Outcome.FINAL)
    world.write()
    assert world.reads
    world.stage(1)
    assert len(world.started) == 1
    world.settle()
    assert [position for one in world.started for position in one.positions] == [1, 2, 3, 4, 5, 6, 7]


def test_a_peer_that_gives_no_missing_events_is_asked_for_the_state() -> None:
    world = DrainWorld(DrainLimits())
    world.stage(1)
    world.answer(1, Outcome.MISSING)
    world.end_fetch(next(iter(world.fetches)), helped=False)
    assert [one.kind for one in world.fetched] == [FetchKind.MISSING_EVENTS, FetchKind.STATE]


def test_a_busy_owner_is_asked_again_with_growing_pauses() -> None:
    world = DrainWorld(DrainLimits())
    world.database_works()
    world.stage(1, count=3)
    waits = []
    for _ in range(6):
        (delivery,) = world.deliveries
        assert world.deliveries[delivery].positions == (1, 2, 3)
        world.answer(delivery, Outcome.BUSY, 0.0)
        assert world.wake_at_ms is not None
        waits.append(world.wake_at_ms - world.now_ms)
        world.advance(waits[-1] - 1)
        assert not world.deliveries
        world.advance(1)
    assert waits == sorted(waits)
    assert waits[-1] > 10 * waits[0]
    world.settle()
