"""Unread counts kept up to date in memory, compared with a model that evaluates every event for every member."""

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.core.identifiers import UserId
from shared.core.rows import EventRow
from shared.core.unread import Count, CountedRows, NotInMemory, RoomCounts, UnknownTotal, UnreadRoom, UnreadSnapshot
from tests.unread_model import USERS, RoomModel, counted_row


class Reader:
    """A process with the room's latest rows and one user's counts, like workers/synchrotron."""

    def __init__(self, model: RoomModel, user: UserId) -> None:
        self.model, self.user = model, user
        self.rows = CountedRows(model.last)
        self.unread = UnreadRoom(user)
        self.applied_receipts = 0
        self.reads = 0
        self.last: tuple[int, int, RoomCounts] | None = None

    def follow(self) -> None:
        for row in self.model.rows[self.rows.last_ordinal :]:
            self.rows.add(row, accepted=True)
        for thread_id, ordinal in self.model.receipts[self.user][self.applied_receipts :]:
            self.unread.note_receipt(thread_id, ordinal)
        self.applied_receipts = len(self.model.receipts[self.user])

    def counts(self, end: int) -> RoomCounts:
        joins = len(self.model.joins[self.user])
        while True:
            try:
                if self.unread.membership != joins or self.unread.at > end:
                    raise NotInMemory
                for known in self.unread.pop_totals():
                    self.rows.set_total(*known)
                self.unread.advance(self.rows, end)
                self.unread.apply_receipts(self.rows)
                return self.unread.counts()
            except UnknownTotal as unknown:
                total = self.model.highlights(unknown.group, unknown.thread_id, unknown.ordinal - 1)
                self.rows.set_total(unknown.group, unknown.thread_id, unknown.ordinal - 1, total)
            except NotInMemory:
                self.reads += 1
                self.unread.load(self.model.found(self.user, end), joins)


@given(st.integers(0, 2**32))
@settings(deadline=None, max_examples=150)
def test_counts_in_memory_equal_those_of_evaluating_every_event(seed: int) -> None:
    random = Random(seed)
    model = RoomModel(random)
    for _ in range(random.randint(1, 10)):
        model.act()
    readers = [Reader(model, user) for user in USERS]
    for _ in range(60):
        model.act()
        for reader in readers:
            if random.random() < 0.8:
                reader.follow()
            if random.random() < 0.1:
                reader.rows.trim(random.randint(1, model.last + 1))
            if random.random() < 0.5:
                reader.follow()
                former, counts = reader.last, reader.counts(model.last)
                assert counts == model.counts(reader.user, model.last)
                reader.last = (model.last, reader.applied_receipts, counts)
                # Changes without a receipt are visible in the rows, so that a client with a filter learns of them.
                if former is not None and former[1] == reader.applied_receipts and counts != former[2]:
                    above = former[0]
                    if reader.rows.has_from(above + 1):
                        rows = reader.rows.between(above, model.last)
                        assert any(row.concerns(reader.user, reader.unread.group) for row in rows)
    assert sum(reader.reads for reader in readers) < 60  # mostly memory sufficed


def message(ordinal: int, total: int) -> EventRow:
    return counted_row(ordinal, sender=UserId("@b:x"), push=((0, total, 0),))


def _snapshot(
    *, at: int, floor: int = 0, counts: dict[str, Count], highlights: dict[str, int] | None = None
) -> UnreadSnapshot:
    return UnreadSnapshot(
        at=at, floor=floor, marks={}, group=0, group_from=0, counts=counts, highlights=highlights or {}
    )


def filled(count: int = 0, at: int = 0) -> UnreadRoom:
    unread = UnreadRoom(UserId("@a:x"))
    counts = {"": Count(count, 0)} if count else {}
    unread.load(_snapshot(at=at, counts=counts, highlights={"": 0}), membership=1)
    return unread


def test_messages_and_receipts_need_only_the_rows() -> None:
    rows, unread = CountedRows(1000), filled(count=1000, at=1000)
    for known in unread.pop_totals():
        rows.set_total(*known)
    for ordinal in range(1001, 1011):
        rows.add(message(ordinal, ordinal), accepted=True)
    unread.advance(rows, 1010)
    assert unread.counts() == RoomCounts(Count(1010, 0), {})
    unread.note_receipt(None, 1005)
    unread.apply_receipts(rows)
    assert unread.counts().main == (5, 0)
    unread.note_receipt("$thread", 1010)
    unread.apply_receipts(rows)
    assert unread.counts().main == (5, 0)
    unread.note_receipt("", 1010)
    unread.apply_receipts(rows)
    assert unread.counts().main == (0, 0)


def test_receipt_from_before_the_rows_needs_storage() -> None:
    rows, unread = CountedRows(1000), filled(count=1000, at=1000)
    unread.note_receipt(None, 500)
    with pytest.raises(NotInMemory):
        unread.apply_receipts(rows)
    unread.load(_snapshot(at=1000, floor=500, counts={"": Count(500, 0)}), membership=1)
    unread.apply_receipts(rows)  # still noted, but already included
    assert unread.counts().main == (500, 0)


def test_unknown_total_is_requested_once() -> None:
    rows, unread = CountedRows(10), filled(at=10)
    for ordinal, total in ((11, 7), (12, 8)):
        rows.add(counted_row(ordinal, sender=UserId("@b:x"), thread_id="$old", push=((0, total, 3),)), accepted=True)
    with pytest.raises(UnknownTotal) as unknown:
        unread.advance(rows, 12)
    assert (unknown.value.group, unknown.value.thread_id, unknown.value.ordinal) == (0, "$old", 11)
    rows.set_total(0, "$old", 10, 2)
    unread.advance(rows, 12)
    assert unread.counts() == RoomCounts(Count(0, 0), {"$old": Count(2, 1)})


def test_events_without_counts_do_not_concern_the_member() -> None:
    rows = CountedRows(0)
    ignored = counted_row(1, sender=UserId("@b:x"), push=((0, 1, 0),), push_users=(("@a:x", -1, 0),))
    rows.add(ignored, accepted=True)
    (row,) = rows.between(0, 1)
    assert [row.concerns(user, 0) for user in USERS] == [False, True, True]


def test_memory_does_not_grow_with_unread_events() -> None:
    rows, unread = CountedRows(0), filled()
    sizes = set()
    for ordinal in range(1, 3001):
        rows.add(message(ordinal, ordinal), accepted=True)
        unread.advance(rows, ordinal)
        rows.trim(ordinal - 100)
        sizes.add(unread.size_bytes)
    assert unread.counts().main == (3000, 0)
    assert max(sizes) < 2_000
