"""Even out the slots of all processes, including those that an operator placed with `skep move`.

The leader evens the load by itself, two seconds after a process starts or ends. This command also shows what would move
and why (--dry-run), removes every pin, and waits until all is done. No request fails meanwhile.
"""

import argparse
import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, config_path
from deploy.command.slots.fleet_reader import Fleet, fleet_reader
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.slots import SLOT_KINDS
from shared.storage.fleet.slots import UNPIN_SLOTS, SlotsOfKinds, UnpinSlots
from workers.main.decisions import evening_moves

_LIMIT_S = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dry-run", action="store_true", help="only show what would move, and why")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    path = config_path(arguments)
    return asyncio.run(rebalance(load_config(path), path, dry_run=arguments.dry_run))


async def rebalance(config: Config, path: Path, *, dry_run: bool) -> int:
    """Show what moves, do it, and wait until it is done; return the exit code."""
    async with fleet_reader(config, path) as reader:
        fleet = await reader.read()
        print("\n".join(plan_text(fleet)))
        if dry_run:
            return 0
        fleet.must_be_led()
        pinned = [row for row in fleet.slots if row.pinned]
        if pinned:
            async with own_writer(config, "skep-rebalance") as writer:
                slots = SlotsOfKinds(kind=[row.kind for row in pinned], slot=[row.slot for row in pinned])
                await writer.write(UNPIN_SLOTS, UnpinSlots(slots=slots))
        left = shown = -1
        async for now in reader.looks(_LIMIT_S):
            left = sum(len(_moves(now, kind)) for kind in SLOT_KINDS)
            if not left and all(row.next_owner is None for row in now.slots):
                print("The load is even.")
                return 0
            if left != shown:
                print(f"{left} slots to move", flush=True)
                shown = left
    raise UsageError(
        f"{left} slots still have to move after {_LIMIT_S:g} s. The leader continues: look with `skep status`, and in"
        " the logs of main for moves that were withdrawn."
    )


def plan_text(fleet: Fleet) -> Iterator[str]:
    """Yield lines that show, for each kind of slots, the counts of all processes, the moves, and why nothing moves."""
    for kind, worker_type in SLOT_KINDS.items():
        rows = fleet.rows(kind)
        owned = Counter(row.owner for row in rows)
        counts = {p.process: owned[p.lease] for p in fleet.living if p.type == worker_type and p.ready}
        has = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
        pinned = [row for row in rows if row.pinned]
        for row in pinned:
            yield f"{kind}: slot {row.slot} is pinned to {fleet.name(row.owner)}; the pin is removed"
        moves = Counter((fleet.name(rows[slot].owner), fleet.name(to)) for slot, to in _moves(fleet, kind).items())
        for (source, target), count in sorted(moves.items()):
            yield f"{kind}: {count} slots from {source} to {target}, since they have {has}"
        if not moves:
            yield f"{kind}: nothing to move ({_why_nothing(fleet, kind, has)})"


def _moves(fleet: Fleet, kind: str) -> dict[int, int]:
    return evening_moves(kind, fleet.living, fleet.rows(kind), pins=False)


def _why_nothing(fleet: Fleet, kind: str, has: str) -> str:
    worker_type = SLOT_KINDS[kind]
    serving = {p.lease for p in fleet.living if p.type == worker_type and p.ready and not p.draining}
    if not serving:
        return f"no {worker_type} serves"
    homeless = sum(row.owner not in serving for row in fleet.rows(kind))
    return f"{homeless} slots wait for an owner first; {has}" if homeless else f"even: {has}"
