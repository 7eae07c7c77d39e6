"""What the commands that move slots have in common: the fleet as it is now, and sentences for operators' mistakes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deploy.command.options import UsageError
from shared.config.addresses import database_dsn, database_dsn_without_password
from shared.config.sections import Config
from shared.core.errors import Unavailable
from shared.core.slots import SLOT_KINDS
from shared.storage.engine.pool import Database, connector
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotRow
from shared.storage.fleet.status import FleetStatus, get_fleet_status

_LOOK_EVERY_S = 0.25


@dataclass(frozen=True, slots=True)
class Fleet:
    """living: with a heartbeat of late; leader: the leading main, None while nobody leads."""

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
        """Return the living worker with this name; raises UsageError, which names those there are."""
        workers = [p for p in self.living if p.type == "main" or p.ready or p.draining]
        for process in workers:
            if process.process == name:
                return process
        names = ", ".join(sorted(p.process for p in workers)) or "none at all"
        raise UsageError(f"No process {name!r} is alive. These are: {names}.")

    def others(self, process: ProcessRow) -> list[ProcessRow]:
        """Return those that could take over from this process."""
        return [
            p for p in self.living
            if p.type == process.type and p.lease != process.lease and p.ready and not p.draining
        ]  # fmt: skip

    def must_be_led(self) -> None:
        """Raise UsageError where no main leads: nobody would name next owners."""
        if self.leader is None:
            raise UsageError("No main leads the fleet, so nothing moves. Start one (skep main), then try again.")


class FleetReader:
    """Reads the fleet from Postgres, over and over. See `fleet_reader`."""

    def __init__(self, database: Database, dead_after_s: float) -> None:
        self.database = database
        self._dead_after_s = dead_after_s

    async def read(self) -> Fleet:
        return fleet_of(await get_fleet_status(self.database, {}), self._dead_after_s)

    async def looks(self, limit_s: float) -> AsyncIterator[Fleet]:
        """Yield the fleet four times a second until the limit is over."""
        loop = asyncio.get_running_loop()
        end = loop.time() + limit_s
        while loop.time() < end:
            yield await self.read()
            await asyncio.sleep(_LOOK_EVERY_S)


@asynccontextmanager
async def fleet_reader(config: Config) -> AsyncIterator[FleetReader]:
    """Lend a reader. Raises UsageError when the database is, or goes, away."""
    database = Database(connector(database_dsn(config.database), pgbouncer=True), max_connections=1)
    try:
        yield FleetReader(database, config.replication.dead_after_s)
    except Unavailable as error:
        where = database_dsn_without_password(config.database)
        raise UsageError(
            f"The database at {where} does not answer. What was asked for before goes on by itself; try again when it"
            " is back (skep status tells)."
        ) from error
    finally:
        await database.close()


def fleet_of(status: FleetStatus, dead_after_s: float) -> Fleet:
    living = [p for p in status.processes if not p.revoked and p.silent_s < dead_after_s]
    return Fleet(living, status.slots, next((p for p in living if p.lease == status.leader), None))


def kind_owned_by(worker_type: str) -> str | None:
    """Return the kind of slots that this type owns."""
    return next((kind for kind, owner in SLOT_KINDS.items() if owner == worker_type), None)
