"""Compose main."""

from replication.process.foundation import Foundation, Worker
from shared.metrics.fleet import FleetMetrics, ParkedRoomsMetrics
from shared.metrics.replication import ProbeMetrics, StandbyMetrics
from workers.main.leader import Leader
from workers.main.parked_rooms_watch import ParkedRoomsWatch
from workers.main.proxies import Proxies
from workers.main.standby_watch import StandbyWatch
from workers.main.stream_probe import StreamProbe


def compose(foundation: Foundation) -> Worker:
    config = foundation.config
    pools = tuple(foundation.pools.values())
    leader = Leader(
        database=foundation.database,
        connect=foundation.connect,
        writer=foundation.writer,
        announcer=foundation.announcer,
        config=config.replication,
        fleet=config.fleet,
        clock=foundation.clock,
        unbroken_since=lambda: foundation.membership.unbroken_since,
        proxies=Proxies(config.haproxy.runtime_sockets, pools, foundation.clock, config.replication.compare_maps_s),
    )
    FleetMetrics(foundation.registry, leader.numbers)

    probe = StreamProbe(
        foundation.database,
        foundation.follower,
        foundation.clock,
        ProbeMetrics(foundation.registry),
        lambda: leader.leading,
    )

    parked = ParkedRoomsWatch(foundation.database, ParkedRoomsMetrics(foundation.registry), lambda: leader.leading)
    watch = StandbyWatch(foundation.database, StandbyMetrics(foundation.registry), lambda: leader.leading)

    return Worker(
        jobs={"leader": leader.run, "stream probe": probe.run, "standby watch": watch.run, "parked rooms": parked.run}
    )
