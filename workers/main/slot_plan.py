"""PURE: who gets the slots that nobody owns. Few moves, fixed rules, so that it can be simulated.

Rules, in this order: a process that carries the same name as the former owner gets its slots back (a restarted worker
finds its rooms); what is left goes one by one to whoever owns the fewest, ties to the lower lease. Owned slots are
never touched here: moving them is a planned move.
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
