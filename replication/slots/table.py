"""The owners of slots, as this process last read them. The table is a hint: Postgres decides, by the fence."""

import asyncio
from collections.abc import Callable, Iterable

from shared.core.slots import SLOT_KINDS
from shared.storage.engine.pool import Database
from shared.storage.fleet.slots import get_slots


class SlotTable:
    """A copy of the slot table. lease: ours. Our slots are those whose owner in Postgres is this lease."""

    def __init__(self, database: Database, lease: int) -> None:
        self._database = database
        self._lease = lease
        self._owners: dict[str, dict[int, int | None]] = {kind: {} for kind in SLOT_KINDS}
        self._epochs: dict[str, dict[int, int]] = {kind: {} for kind in SLOT_KINDS}
        self._addresses: dict[int, str] = {}
        self._next_owners: dict[str, dict[int, int]] = {kind: {} for kind in SLOT_KINDS}
        self._reading: asyncio.Task[None] | None = None
        self._reading_next: asyncio.Task[None] | None = None
        self._listeners: list[Callable[[str, set[int]], None]] = []

    def on_change(self, listener: Callable[[str, set[int]], None]) -> None:
        """Add a listener(kind, our slots), called after each change of our slots."""
        self._listeners.append(listener)

    async def refresh(self) -> None:
        """Read the table as it is at the time of this call, or newer. Callers share reads."""
        loop = asyncio.get_running_loop()
        if self._reading is None or self._reading.done():
            self._reading = loop.create_task(self._read())
            await asyncio.shield(self._reading)
            return
        # A read is under way and may have begun too early. Further callers share the next one.
        if self._reading_next is None or self._reading_next.done():
            self._reading_next = loop.create_task(self._read_after(self._reading))
        await asyncio.shield(self._reading_next)

    async def _read_after(self, other: "asyncio.Task[None]") -> None:
        await asyncio.wait([other])
        self._reading = asyncio.get_running_loop().create_task(self._read())
        await self._reading

    async def _read(self) -> None:
        snapshot = await get_slots(self._database)
        before = {kind: self.owned(kind) for kind in SLOT_KINDS}
        for row in snapshot.slots:
            if row.epoch >= self._epochs[row.kind].get(row.slot, 0):
                self._owners[row.kind][row.slot] = row.owner
                self._epochs[row.kind][row.slot] = row.epoch
        self._next_owners = {
            kind: {r.slot: r.next_owner for r in snapshot.slots if r.kind == kind and r.next_owner is not None}
            for kind in SLOT_KINDS
        }
        self._addresses = snapshot.addresses
        for kind in SLOT_KINDS:
            now = self.owned(kind)
            if now != before[kind]:
                for listener in self._listeners:
                    listener(kind, now)

    def gave_away(self, kind: str, slots: Iterable[int]) -> None:
        """Drop slots that were given away. The next read of the table may fail, or may have begun earlier."""
        for slot in slots:
            self._owners[kind][slot] = None
            self._epochs[kind][slot] += 1
        for listener in self._listeners:
            listener(kind, self.owned(kind))

    def owned(self, kind: str) -> set[int]:
        return {slot for slot, owner in self._owners[kind].items() if owner == self._lease}

    def owns(self, kind: str, slot: int) -> bool:
        return self._owners[kind].get(slot) == self._lease

    def to_give_away(self, kind: str) -> dict[int, int]:
        """Return our slots for which the leader named another owner, with their epochs."""
        return {slot: self._epochs[kind][slot] for slot in self._next_owners[kind] if self.owns(kind, slot)}

    def epoch(self, kind: str, slot: int) -> int:
        return self._epochs[kind].get(slot, 0)

    def owned_elsewhere(self, kind: str) -> list[int]:
        """Return the slots that others own."""
        return [slot for slot, owner in self._owners[kind].items() if owner not in (None, self._lease)]

    def address(self, kind: str, slot: int) -> str | None:
        """Return the owner's "host:port", or None while the slot has no owner."""
        owner = self._owners[kind].get(slot)
        return self._addresses.get(owner) if owner is not None else None

    def addresses(self, kind: str) -> set[str]:
        """Return the "host:port" of every process that owns slots of a kind."""
        owners = set(self._owners[kind].values())
        return {address for owner in owners if owner is not None and (address := self._addresses.get(owner))}
