"""How a process that is about to end hands over: its slots by planned moves, its requests by haproxy's leave.

It says in its heartbeat that it drains. The leader then names next owners for all its slots (`slot_moves.py` gives them
away) and takes it out of haproxy's pools; meanwhile it serves on. With nobody to take over it just leaves.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from replication.process.membership import Membership
from replication.slots.table import SlotTable
from shared.core.slots import SLOT_KINDS
from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import ProcessRow, get_processes

logger = logging.getLogger(__name__)

#: Exit code of a process that an operator drained (`skep drain`): its supervisor shall not start it again.
DRAINED = 85
_LOOK_EVERY_S = 0.1
#: The leader looks four times a second, and tells haproxy at once: by then no new request is on its way to us ...
_PROXIES_KNOW_AFTER_S = 0.75
#: ... unless requests still come: then we wait until none came for so long.
_QUIET_S = 0.3


class Draining:
    """behind_proxies: haproxy sends us requests; last_request_s(): when the last one came, by the loop's clock."""

    def __init__(
        self,
        database: Database,
        slots: SlotTable,
        membership: Membership,
        dead_after_s: float,
        *,
        behind_proxies: bool,
        last_request_s: Callable[[], float],
    ) -> None:
        self._database = database
        self._slots = slots
        self._membership = membership
        self._dead_after_s = dead_after_s
        self._behind_proxies = behind_proxies
        self._last_request_s = last_request_s

    async def hand_over(self, limit_s: float, fenced: asyncio.Event) -> None:
        """Return once nothing is ours and nothing comes any more, nobody could take over, or the limit is over.

        fenced: our lease was lost; there is nothing left to hand over then. Raises Unavailable without a database.
        """
        now = asyncio.get_running_loop().time
        began = owned_s = now()
        while not fenced.is_set():
            if not self._successors(await get_processes(self._database)):
                logger.info("No other %s could take over: leaving", self._membership.worker_type)
                return
            left = self._left()
            if left:
                owned_s = now()
            elif self._is_quiet(now(), owned_s) or now() - began > limit_s:
                logger.info("Handed over after %.1f s", now() - began)
                return
            if now() - began > limit_s:
                logger.warning("%d slots are still ours after %.1f s: the leader gives them away later", left, limit_s)
                return
            await asyncio.sleep(_LOOK_EVERY_S)

    def _successors(self, processes: Sequence[ProcessRow]) -> list[ProcessRow]:
        """Those that could take over, now or, while they start, in a moment."""
        return [
            process
            for process in processes
            if process.type == self._membership.worker_type
            and process.lease != self._membership.lease
            and not process.draining
            and not process.revoked
            and process.silent_s < self._dead_after_s
        ]

    def _left(self) -> int:
        return sum(len(self._slots.owned(kind)) for kind in SLOT_KINDS)

    def _is_quiet(self, now_s: float, owned_s: float) -> bool:
        """owned_s: when we last owned a slot. Until haproxy knows the new owner, its requests still come here."""
        if not self._behind_proxies:
            return True
        return now_s - owned_s > _PROXIES_KNOW_AFTER_S and now_s - self._last_request_s() > _QUIET_S
