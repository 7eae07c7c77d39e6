"""Keep every haproxy in step with the fleet: at once when the fleet or haproxy changed, and every few seconds.

A haproxy that was restarted or reloaded has empty backends. Each round reads its identity, which is cheap. haproxy
cannot be fenced, so its maps are hints: a worker forwards a request that is not its own.
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

_WARN_AFTER_S = 3.0


class Proxies:
    """All haproxies.

    sockets: the runtime sockets.
    compare_s: the time between two complete comparisons.
    """

    def __init__(self, sockets: Sequence[str], pools: tuple[Pool, ...], clock: Clock, compare_s: float) -> None:
        self._proxies = [HaproxyRuntime(socket) for socket in sockets]
        self._pools = pools
        self._clock = clock
        self._compare_s = compare_s
        self._aligned: dict[HaproxyRuntime, tuple[FleetRouting, str, float]] = {}  # wanted state, incarnation, time
        self._failing_since: dict[HaproxyRuntime, float] = {}
        self._warned: set[HaproxyRuntime] = set()

    @property
    def away(self) -> int:
        """The number of haproxies that did not answer in the last round."""
        return len(self._failing_since)

    async def follow(self, processes: Sequence[ProcessRow], slots: SlotSnapshot) -> None:
        """Configure each haproxy for this fleet, if something changed or its last comparison is old."""
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
                logger.info("haproxy restarted, and is configured again")
            self._aligned[proxy] = (wanted, incarnation, self._clock.monotonic_s())

    def _complain(self, proxy: HaproxyRuntime, error: ProxyError) -> None:
        """Warn once for each outage, and not while a fleet starts: main is often there before haproxy."""
        now = self._clock.monotonic_s()
        since = self._failing_since.setdefault(proxy, now)
        if proxy not in self._warned and now - since > _WARN_AFTER_S:
            logger.warning("%s. Trying again", error)
            self._warned.add(proxy)


def routing_of(processes: Sequence[ProcessRow], slots: SlotSnapshot) -> FleetRouting:
    """Return the wanted state of haproxy: the processes with a lease, and the owner of each slot."""
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
    return FleetRouting(workers, owners, frozenset(p.process for p in living))
