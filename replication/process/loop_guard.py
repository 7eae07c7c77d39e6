"""The guard of a worker's event loop: it counts and names what blocks the loop, and ends a process that is stuck.

The heartbeat runs beside the main loop (`shared/runtime/side_loop.py`). So a request that keeps the loop busy costs
time, never the lease. But a process whose loop does not answer for `stuck_after_s` is of no use: it logs where it is
stuck, ends its lease and exits. Its slots move at once, and its supervisor starts it again. Other processes learn of
the request in which it was stuck, and refuse it if that happens twice (`set_aside.py`).
"""

import logging
import os
import time
from collections.abc import Callable

from replication.process.membership import Membership
from replication.process.set_aside import work_of
from shared.http.request import Request
from shared.http.server import request_in
from shared.metrics.replication import LoopMetrics
from shared.runtime.loop_watch import LONG_S, LoopWatch, Stall
from shared.runtime.side_loop import SideLoop

logger = logging.getLogger(__name__)

#: Exit code of a process whose loop was stuck.
STUCK = 86
#: One log line for each endpoint in this time.
_QUIET_S = 60.0
#: The label of stalls without a request: background work, or a machine without free CPU.
_NO_REQUEST, _NO_CPU = "none", "no_cpu"


class LoopGuard:
    """The guard of one incarnation. end: ends the process with an exit code, at once."""

    def __init__(
        self,
        side: SideLoop,
        membership: Membership,
        metrics: LoopMetrics,
        stuck_after_s: float,
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self._side = side
        self._membership = membership
        self._metrics = metrics
        self._end = end
        self._logged_s: dict[str, float] = {}
        self._watch = LoopWatch[Request](
            side,
            request_in,
            on_long=self._on_long,
            on_end=self._on_end,
            on_stuck=self._on_stuck,
            stuck_after_s=stuck_after_s,
        )

    async def run(self) -> None:
        await self._side.run(self._watch.run())

    def _on_long(self, stall: Stall[Request]) -> None:
        if stall.subject is not None:
            self._membership.note_work(work_of(stall.subject))

    def _on_end(self, stall: Stall[Request], long: bool) -> None:
        label = _label(stall)
        self._metrics.stalls.labels(label).inc()
        if long:
            self._membership.note_work(None)
        now_s = time.monotonic()
        if stall.blocked_s >= LONG_S or now_s - self._logged_s.get(label, -_QUIET_S) >= _QUIET_S:
            self._logged_s[label] = now_s
            level = logging.WARNING if long else logging.INFO
            duration = "The event loop was blocked for %.0f ms (%s; %.0f ms of CPU), in:\n%s"
            logger.log(level, duration, 1000 * stall.blocked_s, label, 1000 * stall.worked_s, stall.stack)

    async def _on_stuck(self, stall: Stall[Request]) -> None:
        logger.critical(
            "%s ends: its event loop has not moved for %.0f s (%s). It is in:\n%s",
            self._membership.name,
            stall.blocked_s,
            _label(stall),
            stall.stack,
        )
        await self._membership.leave_now(None if stall.subject is None else work_of(stall.subject))
        self._end(STUCK)


def _label(stall: Stall[Request]) -> str:
    if not stall.is_work:
        return _NO_CPU
    request = stall.main_subject
    return _NO_REQUEST if request is None else request.endpoint.name
