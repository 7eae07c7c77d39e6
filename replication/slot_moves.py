"""The owner's part of a planned move: what the leader named for another process is handed over, and nothing fails.

(1) The leader sets `next_owner`. (2) The owner parks new requests for the slot and lets those under way finish.
(3) The owner itself sets the new owner, if the epoch is still the one that it knows. (4) Parked requests go on to the
new owner. Before (3) nothing moved, after it everything did. Architecture page, section 3 "Planned move".
"""

import logging
from collections.abc import Mapping

from replication.driver import Announcer
from replication.fenced_writer import FencedWriter
from replication.slot_table import SlotForwarder, SlotTable
from shared.core.slots import SLOT_KINDS
from shared.storage.slots import GIVE_SLOTS_AWAY

logger = logging.getLogger(__name__)


class SlotMover:
    """limit_s: how long requests under way may hold up a move; the leader withdraws it after about as long."""

    def __init__(
        self,
        table: SlotTable,
        forwarder: SlotForwarder,
        writer: FencedWriter,
        announcer: Announcer,
        limit_s: float,
    ) -> None:
        self._table = table
        self._forwarder = forwarder
        self._writer = writer
        self._announcer = announcer
        self._limit_s = limit_s
        self._moving = False

    async def give_away(self) -> None:
        """Hand over every slot for which the leader named another owner. Call after each reading of the table."""
        if self._moving:
            return
        self._moving = True
        try:
            for kind in SLOT_KINDS:
                while slots := self._table.to_give_away(kind):
                    if not await self._move(kind, slots):
                        break
        finally:
            self._moving = False

    async def _move(self, kind: str, slots: Mapping[int, int]) -> bool:
        try:
            if not await self._forwarder.park(kind, slots, self._limit_s):
                logger.warning("%d slots of %s stay: requests for them took too long", len(slots), kind)
                return False
            row = await self._writer.write(GIVE_SLOTS_AWAY, kind, list(slots), list(slots.values()))
            given = row["given"] or []
            await self._table.refresh()
            self._announcer.notice("slots")
            logger.info("%d slots of %s given to their next owners", len(given), kind)
            return len(given) == len(slots)
        finally:
            self._forwarder.unpark(kind, slots)
