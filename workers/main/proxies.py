"""Keeps every haproxy in step with the fleet: at once when the fleet or haproxy changed, and every few seconds.

A haproxy that was restarted or reloaded has empty backends; each look asks it who it is, which costs it nothing.
haproxy can't be fenced, so its maps are hints: a worker that gets a request which is not its own passes it on.
"""

import logging
from collections.abc import Sequence

from shared.core.slots import SLOT_KINDS
from shared.http.endpoint import Pool
from shared.runtime.clock import Clock
from shared.storage.fleet.leases import ProcessRow
from shared.storage.fleet.slots import SlotSnapshot
from workers.main.haproxy_plan import FleetRouting, FleetWorker
from workers.main.haproxy_runtime import HaproxyRuntime, ProxyError

logger = logging.getLogger(__name__)

_PATIENCE_S = 3.0


class Proxies:
    """sockets: of every haproxy's runtime API; compare_s: time between two comparisons of the whole."""

    def __init__(self, sockets: Sequence[str], pools: tuple[Pool, ...], clock: Clock, compare_s: float) -> None:
        self._proxies = [HaproxyRuntime(socket) for socket in sockets]
        self._pools = pools
        self._clock = clock
        self._compare_s = compare_s
        self._aligned: dict[HaproxyRuntime, tuple[FleetRouting, str, float]] = {}  # to what, which haproxy, when
        self._failing_since: dict[HaproxyRuntime, float] = {}
        self._warned: set[HaproxyRuntime] = set()

    @property
    def away(self) -> int:
        """How many did not answer when last asked."""
        return len(self._failing_since)

    async def follow(self, processes: Sequence[ProcessRow], slots: SlotSnapshot) -> None:
        """Make each haproxy fit this fleet, where it changed or the last comparison is old."""
        wanted = routing_of(processes, slots)
        for proxy in self._proxies:
            routing, aligned, at = self._aligned.get(proxy, (None, "", 0.0))
            try:
                incarnation = await proxy.incarnation()
                if (routing, aligned) == (wanted, incarnation) and self._clock.monotonic_s() - at < self._compare_s:
                    continue
                complaints = await proxy.align(wanted, self._pools)
            except ProxyError as error:
                self._complain(proxy, error)
                continue
            self._failing_since.pop(proxy, None)
            if proxy in self._warned:
                logger.warning("haproxy answers again")
                self._warned.discard(proxy)
            for complaint in complaints:
                logger.info("haproxy: %s", complaint)
            if aligned not in ("", incarnation):
                logger.info("haproxy began anew and knows the fleet again")
            self._aligned[proxy] = (wanted, incarnation, self._clock.monotonic_s())

    def _complain(self, proxy: HaproxyRuntime, error: ProxyError) -> None:
        """One warning for each outage, and none while a fleet starts: main is often there before haproxy."""
        now = self._clock.monotonic_s()
        since = self._failing_since.setdefault(proxy, now)
        if proxy not in self._warned and now - since > _PATIENCE_S:
            logger.warning("%s; trying again", error)
            self._warned.add(proxy)


def routing_of(processes: Sequence[ProcessRow], slots: SlotSnapshot) -> FleetRouting:
    """Return what haproxy should know: the processes in force, and which of them owns each slot."""
    living = [p for p in processes if not p.revoked]
    names = {p.lease: p.process for p in living}
    owners: dict[str, dict[int, str]] = {kind: {} for kind in SLOT_KINDS}
    for row in slots.slots:
        if row.owner in names:
            owners[row.kind][row.slot] = names[row.owner]
    workers = tuple(
        FleetWorker(p.process, p.type, p.address, ready=p.ready and not p.draining)
        for p in sorted(living, key=lambda p: p.process)
        if p.ready or p.draining
    )
    return FleetRouting(workers, owners)
