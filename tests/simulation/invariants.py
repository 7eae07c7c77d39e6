"""The invariants of a simulated fleet, checked at every step. The first violation ends the run."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg

from replication.bus import wire
from shared.core.slots import slot_of
from tests.simulation.postgres import SimPostgres
from tests.simulation.virtual_loop import VirtualLoop


class Invariants:
    """Checks of every write, announcement and answer.

    failure: the first violation, "" if there is none.
    """

    def __init__(self, loop: VirtualLoop, database: SimPostgres) -> None:
        self._loop = loop
        self.database = database
        self.failure = ""
        self._complete_up_to: dict[tuple[int, str], int] = {}  # (writer, stream) -> position
        self._last: dict[tuple[int, str], int] = {}  # (writer, stream) -> its last position
        self.ordinals: dict[tuple[str, str], int] = {}  # (stream, key) -> the last ordinal
        self.stored: dict[str, int] = {}  # txn -> ordinal

    def fail(self, violation: str) -> None:
        if not self.failure:
            self.failure = f"at {self._loop.time():.3f} s: {violation}"
            self._loop.stop()

    def before_rows(
        self, lease: int, kind: str, stream: str, positions: Sequence[int], items: Sequence[tuple[Any, ...]]
    ) -> None:
        """Check rows that a writer is about to commit."""
        tables = self.database.tables
        if lease not in tables.leases:
            self.fail(f"writer {lease} writes without a lease")
        if positions[0] <= self._complete_up_to.get((lease, stream), 0):
            self.fail(
                f"writer {lease} commits {stream} {positions[0]} after it announced completeness up to "
                f"{self._complete_up_to[lease, stream]}"
            )
        if positions[0] <= self._last.get((lease, stream), 0):
            self.fail(f"writer {lease} commits {stream} {positions[0]} after {self._last[lease, stream]}")
        self._last[lease, stream] = positions[-1]
        for key, ordinal, txn, *_ in items:
            slot = tables.slots[kind, slot_of(key)]
            if slot.owner != lease:
                self.fail(f"writer {lease} writes {key}, whose owner is {slot.owner} at epoch {slot.epoch}")
            if ordinal != self.ordinals.get((stream, key), 0) + 1:
                self.fail(f"writer {lease} writes {key} {ordinal} after {self.ordinals.get((stream, key), 0)}")
                raise asyncpg.UniqueViolationError("ordinal")
            if txn in self.stored:
                self.fail(f"writer {lease} stores {txn} a second time")
            self.ordinals[stream, key] = ordinal
            self.stored[txn] = ordinal

    def on_publish(self, channel: str, message: bytes) -> None:
        """Record what a published message promises."""
        if channel == wire.TICKS:
            tick = wire.decode_tick(message)
            for stream, progress in tick.progress.items():
                place = (tick.writer, stream)
                self._complete_up_to[place] = max(self._complete_up_to.get(place, 0), progress.complete_up_to)

    def acknowledged(self, txn: str, ordinal: int) -> None:
        if self.stored.get(txn) != ordinal:
            self.fail(f"{txn} was acknowledged as {ordinal}, stored is {self.stored.get(txn)}")

    def same(self, what: str, got: Mapping[Any, int], stored: Mapping[Any, int]) -> None:
        if got != stored:
            self.fail(f"{what} has {got} of {stored}")
