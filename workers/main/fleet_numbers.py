"""PURE: the numbers of the fleet for the leader's metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence

from shared.core.slots import SLOT_KINDS
from shared.metrics.fleet import FleetNumbers
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotRow


def fleet_numbers(
    living: Sequence[ProcessRow],
    slots: Sequence[SlotRow],
    withdrawn: Mapping[str, int],
    fenced: Mapping[str, int],
    proxies_away: int,
) -> FleetNumbers:
    """Return the numbers. A kind of slots that never had an owner is left out: no process serves it here."""
    processes = Counter((p.type, _state(p)) for p in living)
    types = {p.type for p in living}
    rows = {kind: [row for row in slots if row.kind == kind] for kind in SLOT_KINDS}
    served = [kind for kind in SLOT_KINDS if any(row.epoch for row in rows[kind])]
    return FleetNumbers(
        leads=True,
        processes=processes,
        unowned={kind: sum(row.owner is None for row in rows[kind]) for kind in served},
        moving={kind: sum(row.next_owner is not None for row in rows[kind]) for kind in served},
        pinned={kind: sum(row.pinned for row in rows[kind]) for kind in served},
        withdrawn={kind: withdrawn.get(kind, 0) for kind in SLOT_KINDS},
        fenced={worker_type: fenced.get(worker_type, 0) for worker_type in {*types, *fenced}},
        proxies_away=proxies_away,
    )


def _state(process: ProcessRow) -> str:
    if process.draining:
        return "draining"
    return "ready" if process.ready else "not ready"
