"""PURE: the owners of slots without an owner, and the slots that move. The rules are fixed, so they can be simulated.

A process with the name of the last owner gets its slots back, so that a restarted worker finds its rooms. The rest goes
one by one to the process with the fewest slots, ties to the lower lease. `assign` never touches owned slots.
`rebalance` returns the fewest planned moves that even the load.
"""

import heapq
from collections.abc import Mapping, Sequence


def assign(
    unowned: Sequence[int],
    owned_by: Mapping[int, int],
    candidates: Sequence[int],
    same_name: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Return slot -> lease for each unowned slot. The result is empty when there is no candidate.

    unowned: slots without an owner.
    owned_by: lease -> the number of its slots.
    candidates: leases that can get slots.
    same_name: slot -> lease of the process with the name of its last owner.
    """
    if not candidates:
        return {}
    living = set(candidates)
    load = {lease: owned_by.get(lease, 0) for lease in candidates}
    given: dict[int, int] = {}
    rest = []
    for slot in unowned:
        lease = (same_name or {}).get(slot)
        if lease in living:
            assert lease is not None
            given[slot] = lease
            load[lease] += 1
        else:
            rest.append(slot)
    heap = [(count, lease) for lease, count in load.items()]
    heapq.heapify(heap)
    for slot in rest:
        count, lease = heap[0]
        given[slot] = lease
        heapq.heapreplace(heap, (count + 1, lease))
    return given


def rebalance(owned: Mapping[int, Sequence[int]]) -> dict[int, int]:
    """Return slot -> lease for the fewest moves after which no two processes differ by more than one slot.

    owned: lease -> its slots, for every process that can own slots, with or without slots.
    """
    if len(owned) < 2:
        return {}
    total = sum(len(slots) for slots in owned.values())
    share, extra = divmod(total, len(owned))
    # The processes with the most slots keep the odd ones: that moves the fewest.
    by_load = sorted(owned, key=lambda lease: (-len(owned[lease]), lease))
    target = {lease: share + (1 if place < extra else 0) for place, lease in enumerate(by_load)}
    spare = [slot for lease in by_load for slot in sorted(owned[lease])[target[lease] :]]
    moves: dict[int, int] = {}
    for lease in by_load:
        for _ in range(target[lease] - len(owned[lease])):
            moves[spare.pop()] = lease
    return moves
