"""What the simulator found about writers that end (seeds 4 and 76 of its first form), step by step."""

from replication.slots.table import SlotTable
from replication.streams.session import StreamSession, WriterState
from shared.core.sync_tokens.vector import Vector
from tests.simulation.roles import Row


def _session() -> StreamSession:
    """Writer 1 has come to 24, writer 2 to 27."""
    session = StreamSession("account_data")
    session.learn_writers(2, [WriterState(1, 0, None), WriterState(2, 0, None)])
    session.advance_idle_writers({1: 24, 2: 27})
    return session


def test_the_last_rows_of_a_dead_writer_are_not_covered_before_they_were_read() -> None:
    """A token made between reading `writers` and reading the rows said so, and the row was lost to its client."""
    session = _session()
    session.learn_writers(2, [WriterState(1, 0, 26), WriterState(2, 0, None)])
    assert not session.vector().covers(1, 26)
    session.repaired([Row(26, 1, "@a", 1, "t")])
    assert session.vector().covers(1, 26)


def test_a_dead_writer_is_not_forgotten_while_another_has_not_been_read() -> None:
    session = _session()
    session.learn_writers(3, [WriterState(3, 0, None)])
    session.advance_idle_writers({3: 30})
    session.learn_writers(3, [WriterState(1, 0, 26), WriterState(2, 0, 27)])
    vector = session.vector()
    assert vector.covers(2, 27)
    assert vector.covers(1, 24)
    assert not vector.covers(1, 26)


def test_the_last_row_of_a_dead_writer_may_be_gone() -> None:
    """A state stream keeps the newest row of each key: a token beyond the row that went was never reached again."""
    session = _session()
    session.learn_writers(2, [WriterState(1, 0, 26), WriterState(2, 0, None)])
    session.repaired([])
    session.advance_idle_writers({1: 26, 2: 27})
    assert session.covers(Vector(2, 27, {}))


def test_slots_that_were_given_away_are_not_ours_though_the_next_reading_fails() -> None:
    table = SlotTable(database=None, lease=5)  # type: ignore[arg-type]
    table._owners["rooms"].update({1: 5, 2: 5})
    table._epochs["rooms"].update({1: 3, 2: 3})
    seen: list[set[int]] = []
    table.on_change(lambda kind, ours: seen.append(ours))
    table.gave_away("rooms", [1])
    assert seen == [{2}]
    assert not table.owns("rooms", 1)
    assert table.epoch("rooms", 1) == 4
