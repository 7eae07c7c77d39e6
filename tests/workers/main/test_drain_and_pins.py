"""The leader's decisions about draining processes and pinned slots, as pure functions."""

from collections import Counter
from collections.abc import Sequence

import pytest

from shared.core.slots import SLOTS
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotRow
from workers.main.decisions import Moves, SlotDecisions, Withdrawal, evening_moves, moves_from_draining

_FLEET = {"event_persister": 2, "client_api": 0, "federation_sender": 0}
_LIMIT_S = 2.0


def process(lease: int, *, draining: bool = False, ready: bool = True, type_: str = "event_persister") -> ProcessRow:
    return ProcessRow(
        lease=lease,
        process=f"p{lease}",
        type=type_,
        host="h",
        pid=lease,
        address="h:1",
        version="1",
        revoked=False,
        ready=ready,
        draining=draining,
        positions={},
        beat=0.0,
        silent_s=0.1,
        age_s=10.0,
    )


def rows(owners: Sequence[int], pinned: frozenset[int] = frozenset()) -> list[SlotRow]:
    """Return all room slots, assigned to the owners in turn."""
    return [SlotRow("rooms", n, owners[n % len(owners)], 1, None, n in pinned) for n in range(SLOTS)]


def carried_out(slots: Sequence[SlotRow], step: Moves) -> list[SlotRow]:
    return [
        SlotRow("rooms", row.slot, step.owners.get(row.slot, row.owner), row.epoch, None, row.pinned) for row in slots
    ]


def test_draining_process_hands_over_all_slots_in_steps_to_the_least_loaded() -> None:
    decisions = SlotDecisions(_FLEET, _LIMIT_S)
    living = [process(1, draining=True), process(2), process(3)]
    slots = [SlotRow("rooms", n, 1 if n < 600 else 2, 1, None) for n in range(SLOTS)]
    now, steps = 0.0, 0
    while any(row.owner == 1 for row in slots):
        [step] = decisions.moves(now, living, slots)
        assert isinstance(step, Moves) and 0 < len(step.owners) <= 256
        decisions.begun(now, step)
        slots = carried_out(slots, step)
        now, steps = now + 0.25, steps + 1
    assert steps == 3
    assert Counter(row.owner for row in slots) == {2: 512, 3: 512}


@pytest.mark.parametrize(
    "others", [[], [process(2, draining=True)], [process(2, ready=False)], [process(2, type_="client_api")]]
)
def test_slots_stay_when_no_process_can_take_them(others: list[ProcessRow]) -> None:
    assert moves_from_draining("rooms", [process(1, draining=True), *others], rows([1])) == {}


def test_named_slots_are_not_moved_again_and_count_for_the_next_owner() -> None:
    living = [process(1, draining=True), process(2), process(3)]
    slots = [SlotRow("rooms", n, 1, 1, 2 if n < 100 else None) for n in range(SLOTS)]
    moves = moves_from_draining("rooms", living, slots)
    assert moves.keys() == set(range(100, SLOTS))
    assert Counter(moves.values()) == {2: 412, 3: 512}


def test_drain_ignores_pending_moves_and_evening_waits_for_them() -> None:
    decisions = SlotDecisions(_FLEET, _LIMIT_S)
    slots = [SlotRow("rooms", n, 1 if n else 2, 1, 3 if n == 0 else None) for n in range(SLOTS)]
    [step] = decisions.moves(0.0, [process(1, draining=True), process(2), process(3)], slots)
    assert isinstance(step, Moves) and 0 not in step.owners and len(step.owners) == 255
    uneven = [process(1), process(2), process(3)]
    assert list(decisions.moves(0.1, uneven, slots)) == []


def test_move_is_withdrawn_after_its_own_time_limit() -> None:
    decisions = SlotDecisions(_FLEET, _LIMIT_S)
    living = [process(1), process(2)]
    pending = [SlotRow("rooms", n, n % 2 + 1, 1, 2 if n == 0 else None) for n in range(SLOTS)]
    assert list(decisions.moves(0.0, living, pending)) == []
    assert (
        list(decisions.moves(1.9, living, rows([1, 2]))) == []
    )  # the move is done; an operator names another one later
    assert list(decisions.moves(10.0, living, pending)) == []
    assert list(decisions.moves(12.1, living, pending)) == [Withdrawal("rooms", [0])]
    gone = [process(1), process(2, draining=True)]
    fresh = SlotDecisions(_FLEET, _LIMIT_S)
    assert Withdrawal("rooms", [0]) in list(fresh.moves(0.0, gone, pending))


def test_evening_leaves_pinned_slots_and_does_not_count_them() -> None:
    pinned = frozenset(range(0, 200, 2))  # a hundred slots of the first process
    slots = rows([1, 2], pinned)
    moves = evening_moves("rooms", [process(1), process(2)], slots)
    assert not pinned & moves.keys()
    assert Counter(moves.values()) == {1: 50}
    assert evening_moves("rooms", [process(1), process(2)], slots, pins=False) == {}
    all_of_one = rows([1], frozenset(range(SLOTS)))
    assert evening_moves("rooms", [process(1), process(2)], all_of_one) == {}
    assert len(evening_moves("rooms", [process(1), process(2)], all_of_one, pins=False)) == SLOTS // 2


def test_no_evening_while_a_slot_has_no_suitable_owner() -> None:
    slots = [SlotRow("rooms", n, 1 if n else None, 1, None) for n in range(SLOTS)]
    assert evening_moves("rooms", [process(1), process(2)], slots) == {}
    assert evening_moves("rooms", [process(1, draining=True), process(2)], rows([1])) == {}
