"""The assignment of unowned slots, as properties of pure functions."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from workers.main.slot_plan import assign, rebalance

slots = st.lists(st.integers(0, 1023), unique=True)
leases = st.lists(st.integers(1, 50), unique=True, min_size=1, max_size=8)


@given(slots, leases)
def test_every_slot_gets_a_living_owner(unowned: list[int], candidates: list[int]) -> None:
    given_ = assign(unowned, {}, candidates)
    assert set(given_) == set(unowned)
    assert set(given_.values()) <= set(candidates)


@given(slots, leases)
def test_unowned_slots_are_shared_evenly(unowned: list[int], candidates: list[int]) -> None:
    counts = Counter(assign(unowned, {}, candidates).values())
    per = [counts.get(lease, 0) for lease in candidates]
    assert max(per) - min(per) <= 1


@given(slots, leases, st.dictionaries(st.integers(1, 50), st.integers(0, 500)))
def test_slots_go_to_the_least_loaded_first(unowned: list[int], candidates: list[int], owned: dict[int, int]) -> None:
    given_ = Counter(assign(unowned, owned, candidates).values())
    after = {lease: owned.get(lease, 0) + given_.get(lease, 0) for lease in candidates}
    for lease, count in given_.items():
        assert count == 0 or after[lease] - 1 <= min(after.values())


@given(slots, leases, st.data())
def test_successor_with_the_same_name_gets_its_slots_back(
    unowned: list[int], candidates: list[int], data: st.DataObject
) -> None:
    heirs = {slot: data.draw(st.sampled_from(candidates)) for slot in unowned}
    assert assign(unowned, {}, candidates, heirs) == heirs


def test_no_slots_are_assigned_without_living_processes() -> None:
    assert assign([1, 2], {}, []) == {}


@given(st.lists(st.integers(1, 8), min_size=1024, max_size=1024), st.integers(0, 3))
def test_rebalancing_evens_the_load_with_the_fewest_moves(owners: list[int], joiners: int) -> None:
    owned: dict[int, list[int]] = {lease: [] for lease in range(1, 9 + joiners)}
    for slot, lease in enumerate(owners):
        owned[lease].append(slot)
    moves = rebalance(owned)
    after = Counter(moves.get(slot, lease) for slot, lease in enumerate(owners))
    counts = [after.get(lease, 0) for lease in owned]
    assert max(counts) - min(counts) <= 1
    assert all(owners[slot] != lease for slot, lease in moves.items())
    share, extra = divmod(1024, len(owned))
    loads = sorted((len(slots) for slots in owned.values()), reverse=True)
    assert len(moves) == sum(max(0, load - share - (place < extra)) for place, load in enumerate(loads))
