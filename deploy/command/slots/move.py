"""Move one slot to a process, such as the slot of a room that is too busy for its neighbours.

SLOT is a number from 0 to 1023, or a room id, user id or server name whose slot is meant. The slot is pinned there: the
leader does not move it to even the load, and does not count it, until `skep rebalance`. If its owner dies or drains,
it goes to another process, as all slots do.

  skep move rooms '!busy:example.org' event_persister-3
  skep move users '@bridge:example.org' client_api-2
"""

import argparse
import asyncio
from pathlib import Path

from deploy.command.command_lease import own_writer
from deploy.command.options import UsageError, add_config_option, config_path, process_name
from deploy.command.slots.fleet_reader import Fleet, FleetReader, fleet_reader, kind_owned_by
from replication.streams.fenced_writer import FencedWriter
from shared.config.load import load_config
from shared.config.sections import Config
from shared.core.slots import SLOT_KINDS, SLOTS, slot_of
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import PLACE_SLOT, UNPIN_SLOTS, PlaceSlot, SlotRow, SlotsOfKinds, UnpinSlots

#: The first characters of the ids of each kind. Server names begin with none of them.
_SIGILS = {"rooms": "!", "users": "@"}
_LIMIT_S = 12.0


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("kind", choices=sorted(SLOT_KINDS), help="kind of slot")
    parser.add_argument("slot", metavar="SLOT", help="a number, or an id")
    parser.add_argument("name", type=process_name, metavar="NAME", help="the process to own it")
    add_config_option(parser)


def run(arguments: argparse.Namespace) -> int:
    """Raises ConfigurationError, UsageError."""
    slot = slot_number(arguments.kind, arguments.slot)
    path = config_path(arguments)
    return asyncio.run(move(load_config(path), path, arguments.kind, slot, arguments.name))


def slot_number(kind: str, text: str) -> int:
    """Return the slot of a number or an id of this kind. Raises UsageError."""
    if text.isascii() and text.isdigit():
        if int(text[:9]) >= SLOTS:
            raise UsageError(f"There is no slot {text}: slots are numbered from 0 to {SLOTS - 1}.")
        return int(text)
    sigil = _SIGILS.get(kind)
    if (sigil is not None and not text.startswith(sigil)) or (sigil is None and text[:1] in ("!", "@", "#", "$", "-")):
        wanted = {"rooms": "a room id (!...)", "users": "a user id (@...)"}.get(kind, "the name of a server")
        raise UsageError(f"{text!r} is neither a slot's number (0 to {SLOTS - 1}) nor {wanted}.")
    return slot_of(text)


async def move(config: Config, path: Path, kind: str, slot: int, name: str) -> int:
    """Move and pin a slot, and wait until it is done; return the exit code."""
    async with fleet_reader(config, path) as reader:
        fleet = await reader.read()
        process = fleet.find(name)
        _check(fleet, process, kind)
        before = _row(fleet, kind, slot)
        async with own_writer(config, "skep-move") as writer:
            if await _move(reader, writer, process, kind, slot):
                print(f"{name} owns slot {slot} of {kind}; it is pinned there until `skep rebalance`.")
                return 0
            if not before.pinned:
                await writer.write(UNPIN_SLOTS, UnpinSlots(slots=SlotsOfKinds(kind=[kind], slot=[slot])))
    raise UsageError(
        f"Slot {slot} of {kind} stays with {fleet.name(before.owner)}, which did not give it away within"
        f" {_LIMIT_S:g} s. Requests for it take long (see its log), or the process hangs (see `skep status`)."
        " Try again later."
    )


def _check(fleet: Fleet, process: ProcessRow, kind: str) -> None:
    name = process.process
    if process.type != SLOT_KINDS[kind]:
        owns = kind_owned_by(process.type)
        raise UsageError(
            f"{name} is a {process.type}, but slots of {kind} belong to processes of the type {SLOT_KINDS[kind]}."
            + (f" Did you mean {owns}?" if owns else "")
        )
    if process.draining or not process.ready:
        state, then = ("is being drained", f"skep undrain {name}") if process.draining else ("is not ready", "wait")
        raise UsageError(f"{name} {state}, so it gets no slots. First {then}.")
    fleet.must_be_led()


async def _move(reader: FleetReader, writer: FencedWriter, process: ProcessRow, kind: str, slot: int) -> bool:
    """Name the next owner until the owner has given the slot away. The leader withdraws moves that take too long."""
    async for fleet in reader.looks(_LIMIT_S):
        row = _row(fleet, kind, slot)
        if row.owner == process.lease and row.pinned:
            return True
        if all(p.lease != process.lease for p in fleet.living):
            raise UsageError(f"{process.process} has ended. Look with `skep status`, and choose another process.")
        if row.owner is not None and row.next_owner is None:
            await writer.write(PLACE_SLOT, PlaceSlot(kind=kind, slot=slot, next_owner=process.lease))
    return False


def _row(fleet: Fleet, kind: str, slot: int) -> SlotRow:
    return next(row for row in fleet.slots if row.kind == kind and row.slot == slot)
