"""Compose main."""

from replication.process.foundation import Foundation, Worker
from shared.metrics.fleet import FleetMetrics
from shared.metrics.replication import ProbeMetrics, StandbyMetrics
from workers.main.leader import Leader
from workers.main.proxies import Proxies
from workers.main.standby_watch import StandbyWatch
from workers.main.stream_probe import StreamProbe


def compose(foundation: Foundation) -> Worker:
    config = foundation.config
    proxies = Proxies(
        config.haproxy.runtime_sockets,
        tuple(foundation.pools.values()),
        foundation.clock,
        config.replication.compare_maps_s,
    )
    leader = Leader(
        foundation.database,
        foundation.connect,
        foundation.writer,
        foundation.announcer,
        config.replication,
        config.fleet,
        foundation.clock,
        lambda: foundation.membership.unbroken_since,
        proxies,
    )
    FleetMetrics(foundation.registry, leader.numbers)

    probe = StreamProbe(
        foundation.database,
        foundation.follower,
        foundation.clock,
        ProbeMetrics(foundation.registry),
        lambda: leader.leading,
    )

    watch = StandbyWatch(foundation.database, StandbyMetrics(foundation.registry), lambda: leader.leading)

    return Worker(jobs={"leader": leader.run, "stream probe": probe.run, "standby watch": watch.run})
