"""PURE: who gets the slots that nobody owns, and which slots move. Fixed rules, so that it can be simulated.

Rules, in this order: a process that carries the same name as the former owner gets its slots back (a restarted worker
finds its rooms); what is left goes one by one to whoever owns the fewest, ties to the lower lease. Owned slots are
never touched by `assign`; `rebalance` names the fewest planned moves that even the load.
"""

import heapq
from collections.abc import Mapping, Sequence


def assign(
    unowned: Sequence[int],
    owned_by: Mapping[int, int],
    candidates: Sequence[int],
    heirs: Mapping[int, int] | None = None,
) -> dict[int, int]:
    """Return slot -> lease for each unowned slot; empty when there is no candidate.

    unowned: slots without an owner; owned_by: lease -> number of slots that it owns already;
    candidates: leases that may be given slots; heirs: slot -> lease of its former owner's successor.
    """
    if not candidates:
        return {}
    living = set(candidates)
    load = {lease: owned_by.get(lease, 0) for lease in candidates}
    given: dict[int, int] = {}
    rest = []
    for slot in unowned:
        heir = (heirs or {}).get(slot)
        if heir in living:
            assert heir is not None
            given[slot] = heir
            load[heir] += 1
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
    """Return slot -> lease of the fewest moves after which no two processes differ by more than one slot.

    owned: lease -> its slots, for every process that may own slots; those with none are named too.
    """
    if len(owned) < 2:
        return {}
    total = sum(len(slots) for slots in owned.values())
    share, extra = divmod(total, len(owned))
    # Whoever has most keeps the odd slots: that moves the fewest.
    by_load = sorted(owned, key=lambda lease: (-len(owned[lease]), lease))
    target = {lease: share + (1 if place < extra else 0) for place, lease in enumerate(by_load)}
    spare = [slot for lease in by_load for slot in sorted(owned[lease])[target[lease] :]]
    moves: dict[int, int] = {}
    for lease in by_load:
        for _ in range(target[lease] - len(owned[lease])):
            moves[spare.pop()] = lease
    return moves
