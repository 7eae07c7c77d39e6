"""Handing over before a process ends: its slots by planned moves, its requests by leaving haproxy's pools.

The process says in its heartbeat that it drains. The leader then names next owners for all its slots
(`replication/slots/mover.py` gives them away), and removes it from haproxy's pools. It serves requests meanwhile. If no
other process can take over, it just leaves.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from replication.process.membership import Membership
from replication.slots.table import SlotTable
from shared.core.slots import SLOT_KINDS
from shared.storage.engine.pool import Database
from shared.storage.fleet.leases import ProcessRow, get_processes
from shared.storage.fleet.pulses import Pulses

logger = logging.getLogger(__name__)

#: Exit code of a process that an operator drained (`skep drain`). Its supervisor does not start it again.
DRAINED = 85
_CHECK_EVERY_S = 0.1
#: The leader checks four times a second and tells haproxy at once. After this time haproxy sends no new requests ...
_PROXIES_KNOW_AFTER_S = 0.75
#: ... and the process waits until none came for this time.
_QUIET_S = 0.3


class Draining:
    """One process's handing over.

    behind_proxies: True if haproxy sends requests to this process.
    last_request_s: returns the time of the last request, by the loop's clock.
    """

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
        self._pulses = Pulses()

    async def hand_over(self, limit_s: float, fenced: asyncio.Event) -> None:
        """Return when no slot and no request is left here, when no process can take over, or after the limit.

        fenced: set when the lease is lost; there is nothing to hand over then.
        Raises Unavailable without a database.
        """
        now = asyncio.get_running_loop().time
        began = owned_s = now()
        while not fenced.is_set():
            looked_s = now()
            processes = await get_processes(self._database)
            self._pulses.saw(processes, looked_s, now())
            if not self._successors(processes):
                logger.info("No other %s can take over", self._membership.worker_type)
                return
            left = self._left()
            if left:
                owned_s = now()
            elif self._is_quiet(now(), owned_s) or now() - began > limit_s:
                logger.info("Handed over after %.1f s", now() - began)
                return
            if now() - began > limit_s:
                logger.warning("%d slots are still here after %.1f s. The leader moves them later", left, limit_s)
                return
            await asyncio.sleep(_CHECK_EVERY_S)

    def _successors(self, processes: Sequence[ProcessRow]) -> list[ProcessRow]:
        """Return the processes that can take over, including those that are starting."""
        return [
            process
            for process in processes
            if process.type == self._membership.worker_type
            and process.lease != self._membership.lease
            and not process.draining
            and not process.revoked
            and self._is_alive(process)
        ]

    def _is_alive(self, process: ProcessRow) -> bool:
        """Return True if the process has a recent heartbeat, or may have one although the database's clock jumped."""
        return process.silent_s < self._dead_after_s or self._pulses.silent_s(process) < self._dead_after_s / 2

    def _left(self) -> int:
        return sum(len(self._slots.owned(kind)) for kind in SLOT_KINDS)

    def _is_quiet(self, now_s: float, owned_s: float) -> bool:
        """Return True if requests no longer come. owned_s: the time at which this process last owned a slot."""
        if not self._behind_proxies:
            return True
        return now_s - owned_s > _PROXIES_KNOW_AFTER_S and now_s - self._last_request_s() > _QUIET_S
