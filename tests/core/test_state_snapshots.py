"""States as differences: walks, storage and rebasing for random branches."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from shared.core.state_snapshots import Snapshot, find_parent, parent_steps, rebase
from workers.event_persister.graph.states import step_snapshot

KEYS = [("t", str(n)) for n in range(6)]
overlays = st.dictionaries(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 3)))


@given(base=st.dictionaries(st.integers(0, 5), st.integers(0, 3)), now=overlays, state=overlays)
def test_rebased_overlay_gives_the_same_state(
    base: dict[int, int], now: dict[int, int | None], state: dict[int, int | None]
) -> None:
    """The overlay on the changed base gives the same state, and has no entry that equals the base's."""
    whole = laid(base, state)
    changed = laid(base, now)
    changes = {key: (base.get(key), changed.get(key)) for key in base.keys() | changed.keys()}
    overlay = {key: whole.get(key) for key in whole.keys() | base.keys() if whole.get(key) != base.get(key)}
    rebased = rebase(overlay, changes)
    assert laid(changed, rebased) == whole
    assert all(changed.get(key) != held for key, held in rebased.items())


def laid(base: dict[int, int], overlay: dict[int, int | None]) -> dict[int, int]:
    both = {**base, **overlay}
    return {key: value for key, value in both.items() if value is not None}


@given(st.integers(1, 1 << 40))
def test_parent_step_has_no_lowest_bit(steps: int) -> None:
    assert parent_steps(steps) < steps and steps.bit_count() == parent_steps(steps).bit_count() + 1


def walk_of(snapshots: dict[int, Snapshot], nid: int) -> list[Snapshot]:
    walk = [snapshots[nid]]
    while walk[-1].parent is not None:
        walk.append(snapshots[walk[-1].parent])
    return walk


@given(st.lists(st.integers(0, 5), min_size=1, max_size=200))
def test_branch_of_snapshots_stays_within_bounds(changed: Sequence[int]) -> None:
    """Each snapshot gives the full state. Walks and storage stay within their bounds."""
    state = {KEYS[0]: 1}
    snapshots = {1000: Snapshot(1000, None, 7, 0, (1,), ())}
    keys = {1: KEYS[0]}
    last = 1000
    for number, index in enumerate(changed, 2):
        # Event `number` sets its key. The state before event 1000 + number is the state after it.
        keys[number] = KEYS[index]
        state[KEYS[index]] = number
        nid = 1000 + number
        snapshots[nid] = step_snapshot(nid, walk_of(snapshots, last), keys, KEYS[index], number)
        last = nid
        walk = walk_of(snapshots, nid)
        read: dict[tuple[str, str], int] = {}
        for snapshot in reversed(walk):
            read.update((keys[added], added) for added in snapshot.added)
        assert read == state
        steps = number - 1
        assert walk[0].steps == steps and len(walk) == 1 + steps.bit_count() and walk[-1].base == 7
        assert find_parent(walk) < len(walk)
    entries = sum(len(snapshot.added) for snapshot in snapshots.values())
    assert entries <= 1 + len(changed) * (1 + len(changed).bit_length() / 2)
