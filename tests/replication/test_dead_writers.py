"""Bugs with dead writers that the simulator found (seeds 4 and 76 of its first form), step by step."""

from replication.slots.table import SlotTable
from replication.streams.session import StreamSession, WriterState
from shared.core.sync_tokens.vector import Vector
from tests.simulation.roles import Row


def _session() -> StreamSession:
    """Return a session with writer 1 at 24 and writer 2 at 27."""
    session = StreamSession("account_data")
    session.learn_writers(2, [WriterState(1, 0, None), WriterState(2, 0, None)])
    session.advance_idle_writers({1: 24, 2: 27})
    return session


def test_vector_covers_last_rows_of_dead_writer_only_after_reading_them() -> None:
    """A token made after reading `writers` and before reading the rows covered them, and its client missed the row."""
    session = _session()
    session.learn_writers(2, [WriterState(1, 0, 26), WriterState(2, 0, None)])
    assert not session.vector().covers(1, 26)
    session.repaired([Row(26, 1, "@a", 1, "t")])
    assert session.vector().covers(1, 26)


def test_dead_writer_is_kept_until_all_writers_are_read() -> None:
    session = _session()
    session.learn_writers(3, [WriterState(3, 0, None)])
    session.advance_idle_writers({3: 30})
    session.learn_writers(3, [WriterState(1, 0, 26), WriterState(2, 0, 27)])
    vector = session.vector()
    assert vector.covers(2, 27)
    assert vector.covers(1, 24)
    assert not vector.covers(1, 26)


def test_last_row_of_dead_writer_may_be_gone() -> None:
    """A state stream keeps the newest row of each key. A token above a removed row was never reached again."""
    session = _session()
    session.learn_writers(2, [WriterState(1, 0, 26), WriterState(2, 0, None)])
    session.repaired([])
    session.advance_idle_writers({1: 26, 2: 27})
    assert session.covers(Vector(2, 27, {}))


def test_given_slots_are_dropped_even_if_next_read_fails() -> None:
    table = SlotTable(database=None, lease=5)  # type: ignore[arg-type]
    table._owners["rooms"].update({1: 5, 2: 5})
    table._epochs["rooms"].update({1: 3, 2: 3})
    seen: list[set[int]] = []
    table.on_change(lambda kind, ours: seen.append(ours))
    table.gave_away("rooms", [1])
    assert seen == [{2}]
    assert not table.owns("rooms", 1)
    assert table.epoch("rooms", 1) == 4
