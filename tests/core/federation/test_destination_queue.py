"""The destination queue: nothing durable is lost, a line's order is kept, all is bounded, whatever fails."""

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from shared.core.federation.back_off import BackOff, wait_ms
from shared.core.federation.destination_records import (
    Delivered,
    Enqueued,
    Failed,
    Heard,
    Item,
    MemoryShort,
    QueueLimits,
    Send,
)
from shared.core.federation.wake_up import TimePassed
from tests.core.federation.destination_model import PEER, World

SMALL = QueueLimits(pending_pdus=6, pending_edus=5, lines=3, all_missed=4)
TO_DEVICE = "m.direct_to_device"
LINES = st.sampled_from([1, 2, 3, 4, 5, 6, TO_DEVICE])
KINDS = st.sampled_from(["message", "message", "message", "state", "member", "other"])
JITTER = st.floats(0, 1)


class QueueMachine(RuleBasedStateMachine):
    """Random histories with lost, doubled and late answers, restarts and moves."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(SMALL)
        self.old: list[Send] = []

    @rule(line=LINES, kind=KINDS, goes_out=st.sampled_from([True, True, True, False]), count=st.integers(1, 8))
    def items_are_stored(self, line: int | str, kind: str, goes_out: bool, count: int) -> None:
        for _ in range(count):
            self.world.add(line, kind, goes_out=goes_out or line == TO_DEVICE)

    @rule(count=st.integers(1, 20))
    def stream_is_read(self, count: int) -> None:
        self.world.deliver_stream(count)

    @rule(user=st.integers(1, 9), merges=st.booleans())
    def somebody_types(self, user: int, merges: bool) -> None:
        now_ms = self.world.now_ms
        key = f"typing {user}" if merges else ""
        item = Item(line=None, ordinal=0, content_id=key, at_ms=now_ms, mark=self.world.mark, merge_key=key, edu=b"{}")
        self.world.step(Enqueued(item=item))

    @rule(room=st.sampled_from([5, 6]))
    def the_peer_leaves_a_room(self, room: int) -> None:
        if room not in self.world.left_rooms:
            self.world.add(room, "member")
            self.world.left_rooms.add(room)

    @precondition(lambda self: self.world.in_flight)
    @rule()
    def the_peer_answers(self) -> None:
        self.old.append(self.world.peer_answers())

    @precondition(lambda self: self.world.in_flight)
    @rule(jitter=JITTER, is_received=st.booleans(), retry_after_ms=st.sampled_from([0, 0, 5_000, 10**9]))
    def the_peer_fails(self, jitter: float, is_received: bool, retry_after_ms: int) -> None:
        send = self.world.peer_fails(jitter, is_received=is_received, retry_after_ms=retry_after_ms)
        self.old.append(send)

    @precondition(lambda self: self.old)
    @rule(delivered=st.booleans(), data=st.data())
    def an_answer_comes_again(self, delivered: bool, data: st.DataObject) -> None:
        send = data.draw(st.sampled_from(self.old))
        if delivered and send.transaction.transaction_id in self.world.received:
            self.world.step(Delivered(attempt=send.attempt))
        elif not self.world.in_flight or self.world.in_flight[0].attempt != send.attempt:
            self.world.step(Failed(attempt=send.attempt, jitter=0.5))

    @rule(ms=st.sampled_from([10, 500, 3_000, 60_000, 4_000_000]))
    def time_passes(self, ms: int) -> None:
        self.world.advance(ms)

    @rule()
    def the_timer_is_wrong(self) -> None:
        self.world.step(TimePassed())

    @rule(jitter=JITTER)
    def the_peer_is_heard(self, jitter: float) -> None:
        self.world.step(Heard(jitter=jitter))

    @precondition(lambda self: self.world.reads)
    @rule()
    def the_database_answers(self) -> None:
        self.world.answer_read()

    @precondition(lambda self: self.world.reads)
    @rule(jitter=JITTER)
    def the_database_fails(self, jitter: float) -> None:
        self.world.fail_read(jitter)

    @rule()
    def memory_is_short(self) -> None:
        self.world.step(MemoryShort())

    @precondition(lambda self: self.world.save is None)
    @rule()
    def a_save_begins(self) -> None:
        self.world.begin_save()

    @precondition(lambda self: self.world.save is not None)
    @rule(fails=st.sampled_from([False, False, False, True]))
    def a_save_ends(self, fails: bool) -> None:
        if fails:
            self.world.save = None
        else:
            self.world.save_commits()

    @rule(jitter=JITTER, is_saved=st.booleans())
    def the_process_dies(self, jitter: float, is_saved: bool) -> None:
        self.world.restart(jitter, is_saved=is_saved)
        self.old = []

    @rule(jitter=JITTER)
    def the_slot_moves(self, jitter: float) -> None:
        self.world.move(jitter)
        self.old = []

    @invariant()
    def order_is_kept(self) -> None:
        self.world.check_order()

    def teardown(self) -> None:
        self.world.settle()
        self.world.check_all_arrived()
        self.world.check_order()
        assert not self.world.rows
        assert self.world.queue.is_idle or self.world.queue.failing_since_ms is not None


QueueMachine.TestCase.settings = settings(max_examples=120, stateful_step_count=50, deadline=None)
TestQueueMachine = QueueMachine.TestCase


def test_a_line_is_not_live_while_other_lines_are_only_in_the_database() -> None:
    world = World(SMALL)
    world.add(9)
    world.deliver_stream()  # in flight
    for line in range(1, 6):
        world.add(line)
        world.add(line)
    world.deliver_stream()  # more than may be pending
    world.begin_save()
    world.save_commits()
    world.begin_save()
    world.add(7)
    world.deliver_stream()  # pending
    world.save_commits()  # lines 1 to 5 are saved, and some forgotten
    world.add(7)
    world.deliver_stream()
    world.settle()
    world.check_all_arrived()
    world.check_order()


def test_a_dead_peer_costs_nothing_for_each_event() -> None:
    world = World(QueueLimits())
    world.add(1)
    world.deliver_stream()
    world.peer_fails(0.5)
    for _ in range(2):
        world.begin_save()
        world.save_commits()
    statements, pending = world.statements, world.queue.pending
    for _ in range(10_000):
        world.add(1)
    world.deliver_stream()
    world.begin_save()
    world.save_commits()
    assert (world.statements, world.queue.pending) == (statements, pending)
    assert not world.reads
    assert not world.queue.may_have_rows


def test_lines_in_memory_are_bounded_and_none_is_lost() -> None:
    world = World(QueueLimits(lines=10))
    for line in range(1, 201):
        world.add(line)
        world.deliver_stream()
        if world.in_flight:
            world.peer_fails(0.5)
        world.begin_save()
        world.save_commits()
        assert world.queue.lines_in_memory <= 11
    world.settle()
    world.check_all_arrived()


def test_small_rooms_come_first_and_large_ones_take_turns() -> None:
    world = World(QueueLimits(all_missed=1_000))
    world.add(1)
    world.deliver_stream()
    world.peer_fails(0.5)
    for line, count in ((1, 299), (2, 300), *((small, 2) for small in range(3, 23))):
        for _ in range(count):
            world.add(line)
    world.deliver_stream()
    sent = {1: 0, 2: 0}
    world.advance(2_000)
    for number in range(14):
        send = world.peer_answers()
        for item in send.transaction.pdus:
            if item.line in sent:
                sent[int(item.line)] += 1
        assert abs(sent[1] - sent[2]) <= 50
        if number == 1:
            assert all(len(world.arrivals[line]) == 2 for line in range(3, 23))
        if world.reads:
            world.answer_read()
    world.settle()
    world.check_all_arrived()


def test_live_rooms_are_sent_beside_catch_up() -> None:
    world = World(QueueLimits(all_missed=1_000))
    world.add(1)
    world.deliver_stream()
    world.peer_fails(0.5)
    for _ in range(400):
        world.add(1)
    world.deliver_stream()
    world.advance(2_000)
    world.peer_answers()
    for _ in range(100):
        world.add(2)
    world.deliver_stream()
    for _ in range(5):
        if world.reads:
            world.answer_read()
        world.peer_answers()
    assert len(world.arrivals[2]) == 100
    assert 100 < len(world.arrivals[1]) < 400


def test_a_long_gap_is_cut_to_extremities_state_and_memberships() -> None:
    kinds = {10: "state", 20: "member", 30: "other"}
    for count, expected in ((100, [*range(1, 101)]), (101, [101, 10, 20])):
        world = World(QueueLimits())
        for number in range(1, count + 1):
            world.add(1, kinds.get(number, "message"))
        world.rows[1] = 1
        world.saved_vector = count
        world.restart(0.0)
        world.settle()
        assert world.arrivals[1] == expected
        assert not world.rows


def test_a_peer_that_left_gets_the_memberships_of_its_users_only() -> None:
    world = World(QueueLimits())
    for kind in ("message", "state", "other", "member", "message"):
        world.add(1, kind)
    world.left_rooms.add(1)
    world.rows[1] = 1
    world.saved_vector = 5
    world.restart(0.0)
    world.settle()
    assert world.arrivals[1] == [4]


def test_a_repeat_is_equal_and_has_the_same_id() -> None:
    world = World(QueueLimits())
    for _ in range(3):
        world.add(1)
    world.deliver_stream()
    first = world.peer_fails(0.5, is_received=True)
    world.add(2)
    world.deliver_stream()
    world.advance(2_000)
    assert world.peer_fails(0.5).transaction == first.transaction
    world.advance(10_000)
    assert world.peer_answers().transaction == first.transaction
    world.settle()
    assert len({one.transaction_id for one in world.transactions()}) == len(world.transactions())
    world.check_all_arrived()


def test_a_late_failure_of_an_earlier_attempt_changes_nothing() -> None:
    world = World(QueueLimits())
    world.add(1)
    world.deliver_stream()
    first = world.peer_fails(0.5)
    world.advance(2_000)
    world.step(Failed(attempt=first.attempt, jitter=0.5))
    assert world.in_flight
    world.peer_answers()
    assert world.queue.failing_since_ms is None


def test_stored_edus_merge_in_the_order_of_their_line() -> None:
    world = World(QueueLimits())
    world.add(1)
    world.deliver_stream()  # in flight
    for ordinal, user in ((1, "a"), (2, "b"), (3, "a")):
        item = Item(line="m.receipt", ordinal=ordinal, content_id=f"r{ordinal}", at_ms=1, merge_key=user, edu=b"{}")
        world.step(Enqueued(item=item))
    world.peer_answers()
    assert [edu.ordinal for edu in world.in_flight[0].transaction.edus] == [2, 3]


def test_an_edu_with_equal_content_at_another_time_is_another_transaction() -> None:
    world = World(QueueLimits())
    ids = set()
    for at_ms in (1, 2):
        world.step(Enqueued(item=Item(line=None, ordinal=0, content_id="typing", at_ms=at_ms, edu=b"{}")))
        ids.add(world.peer_answers().transaction.transaction_id)
    assert len(ids) == 2


def test_back_off_survives_a_restart_and_a_move() -> None:
    world = World(QueueLimits())
    world.add(1)
    world.deliver_stream()
    for _ in range(6):
        world.peer_fails(0.0)
        assert world.wake_at_ms is not None
        world.advance(world.wake_at_ms - world.now_ms)
    world.peer_fails(0.0)
    since_ms, retry_at_ms = world.queue.failing_since_ms, world.wake_at_ms
    world.move(0.5)
    assert (world.queue.failing_since_ms, world.wake_at_ms) == (since_ms, retry_at_ms)
    assert retry_at_ms is not None
    world.advance(retry_at_ms - world.now_ms - 1)
    assert not world.in_flight
    assert not world.reads
    world.advance(1)
    world.settle()
    world.check_all_arrived()


def test_a_peer_that_was_away_for_less_than_30_s_is_tried_within_30_s() -> None:
    for jitter in (0.0, 0.3, 1.0):
        now_ms = 0
        while now_ms < 30_000:
            wait = wait_ms(BackOff(), 0, now_ms, jitter)
            assert 0 < wait <= 30_000
            now_ms += wait
    assert wait_ms(BackOff(), 0, 10**10, 0.0) == BackOff().longest_ms


def test_a_peer_is_tried_within_seconds_once_it_is_heard_but_not_for_ever() -> None:
    world = World(QueueLimits())
    world.add(1)
    world.deliver_stream()
    world.peer_fails(0.5)
    world.advance(2_000)
    world.now_ms += 86_400_000
    world.peer_fails(0.5)
    world.advance(5_000)
    world.step(Heard(jitter=1.0))
    world.advance(1_000)
    assert world.in_flight
    attempts = 0
    for _ in range(3_600):  # it is heard each second for an hour, and never answers
        if world.in_flight:
            world.peer_fails(0.5)
            attempts += 1
        world.step(Heard(jitter=0.5))
        world.advance(1_000)
    assert attempts < 20


def test_restarts_are_spread_by_jitter() -> None:
    times = set()
    for jitter in (0.0, 0.5, 1.0):
        world = World(QueueLimits())
        world.add(1)
        world.rows[1] = 1
        world.restart(jitter)
        times.add(world.wake_at_ms)
    assert len(times) == 3


def test_memory_of_a_forgotten_queue_is_not_needed() -> None:
    world = World(QueueLimits())
    assert world.queue.server == PEER
    world.add(1)
    world.deliver_stream()
    assert not world.queue.is_idle
    world.step(MemoryShort())
    world.step(Delivered(attempt=1))
    world.step(TimePassed())
    assert world.queue.is_idle
