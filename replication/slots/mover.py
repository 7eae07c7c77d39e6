"""The owner's part of a planned move. No request fails.

1. The leader sets `next_owner`.
2. The owner parks new requests for the slot, and requests under way finish.
3. The owner itself sets the new owner, if the epoch is still the one that it knows.
4. Parked requests are forwarded to the new owner.

Before step 3 nothing moved, after it everything did. Architecture page, section 3 "Planned move".
"""

import asyncio
import logging
from collections.abc import Mapping

from replication.slots.forwarder import SlotForwarder
from replication.slots.table import SlotTable
from replication.streams.announcer import Announcer
from replication.streams.fenced_writer import FencedWriter
from shared.core.slots import SLOT_KINDS
from shared.storage.fleet.slots import GIVE_SLOTS_AWAY, GiveSlotsAway, SlotEpochs

logger = logging.getLogger(__name__)


#: A request that takes longer delays its own slot only, not the slots that move with it.
_WAIT_FOR_ALL_S = 0.1


class SlotMover:
    """Gives slots to their next owners.

    limit_s: the time after which the leader withdraws a move. A slot is parked for half of that at most.
    """

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
        self._limit_s = limit_s / 2
        self._moving = False

    async def give_away(self) -> None:
        """Give away every slot for which the leader named another owner. Call it after each read of the table."""
        if self._moving:
            return
        self._moving = True
        try:
            for kind in SLOT_KINDS:
                await self._give_away(kind)
        finally:
            self._moving = False

    async def _give_away(self, kind: str) -> None:
        now = asyncio.get_running_loop().time
        parked: dict[int, float] = {}  # slot -> time of parking
        stay: set[int] = set()
        try:
            # Look again each time: the leader may name more slots while we wait for a slow request.
            while wanted := {s: epoch for s, epoch in self._table.to_give_away(kind).items() if s not in stay}:
                self._forwarder.park(kind, wanted)
                parked.update({slot: now() for slot in wanted if slot not in parked})
                free = await self._forwarder.until_free(kind, wanted, _WAIT_FOR_ALL_S)
                given = await self._give(kind, {slot: wanted[slot] for slot in free}) if free else set()
                late = {slot for slot in wanted.keys() - free if now() - parked[slot] > self._limit_s}
                if late:
                    logger.warning("%d slots of %s stay here: requests for them take too long", len(late), kind)
                stay |= late | (free - given)
                self._forwarder.unpark(kind, free | late)
        finally:
            self._forwarder.unpark(kind, parked)

    async def _give(self, kind: str, slots: Mapping[int, int]) -> set[int]:
        """Give slots (with their epochs) to their next owners. Return the slots that moved."""
        epochs = SlotEpochs(slot=list(slots), epoch=list(slots.values()))
        row = await self._writer.write(GIVE_SLOTS_AWAY, GiveSlotsAway(kind=kind, slots=epochs))
        given = set(row["given"] or ())
        self._table.gave_away(kind, given)
        await self._table.refresh()
        self._announcer.notice("slots")
        logger.info("%d slots of %s given to their next owners", len(given), kind)
        return given
