"""The present fleet, for the commands that move slots, with sentences for operators' mistakes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.command.opened_database import opened_database
from deploy.command.options import UsageError
from shared.config.sections import Config
from shared.core.slots import SLOT_KINDS
from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotRow
from shared.storage.fleet.status import FleetStatus, get_fleet_status

_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Fleet:
    """The fleet at one moment.

    living: processes with a recent heartbeat.
    leader: the leading main; None while none leads.
    """

    living: Sequence[ProcessRow]
    slots: Sequence[SlotRow]
    leader: ProcessRow | None

    def rows(self, kind: str) -> list[SlotRow]:
        return [row for row in self.slots if row.kind == kind]

    def slots_of(self, process: ProcessRow) -> int:
        return sum(row.owner == process.lease for row in self.slots)

    def name(self, lease: int | None) -> str:
        return next((p.process for p in self.living if p.lease == lease), "nobody")

    def find(self, name: str) -> ProcessRow:
        """Return the living worker with this name. Raises UsageError, which lists the living ones."""
        workers = [p for p in self.living if p.type == "main" or p.ready or p.draining]
        for process in workers:
            if process.process == name:
                return process
        names = ", ".join(sorted(p.process for p in workers))
        raise UsageError(f"No process {name!r} is alive. " + (f"These are: {names}." if names else "None is."))

    def others(self, process: ProcessRow) -> list[ProcessRow]:
        """Return the processes that could take over from this one."""
        same_type = [p for p in self.living if p.type == process.type and p.lease != process.lease]
        return [p for p in same_type if p.ready and not p.draining]

    def must_be_led(self) -> None:
        """Raise UsageError if no main leads, since only the leader names next owners."""
        if self.leader is None:
            raise UsageError("No main leads the fleet, so nothing moves. Start one (skep main), then try again.")


class FleetReader:
    """Read the fleet from Postgres, any number of times. See `fleet_reader`."""

    def __init__(self, database: Database, dead_after_s: float) -> None:
        self.database = database
        self._dead_after_s = dead_after_s

    async def read(self) -> Fleet:
        return fleet_of(await get_fleet_status(self.database, {}), self._dead_after_s)

    async def looks(self, limit_s: float) -> AsyncIterator[Fleet]:
        """Yield the fleet four times a second until the time limit."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while loop.time() < end:
            yield await self.read()
            await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def fleet_reader(config: Config, path: Path) -> AsyncIterator[FleetReader]:
    """Lend a reader. path: the file of the configuration. Raises UsageError if the database cannot be used."""
    async with opened_database(config, path) as database:
        yield FleetReader(database, config.replication.dead_after_s)


def fleet_of(status: FleetStatus, dead_after_s: float) -> Fleet:
    living = [p for p in status.processes if not p.revoked and p.silent_s < dead_after_s]
    return Fleet(living, status.slots, next((p for p in living if p.lease == status.leader), None))


def kind_owned_by(worker_type: str) -> str | None:
    """Return the kind of slots that this type owns."""
    return next((kind for kind, owner in SLOT_KINDS.items() if owner == worker_type), None)
