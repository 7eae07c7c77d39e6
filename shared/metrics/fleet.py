"""Metrics of the fleet, from the leading main: processes, slots and moves."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetNumbers:
    """The numbers of the fleet.

    processes: (worker type, "ready", "draining" or "not ready") -> number of processes.
    unowned, moving, pinned, withdrawn: kind of slots -> number of slots.
    fenced: worker type -> number of leases ended because of silence.
    proxies_away: haproxies that do not answer.
    """

    leads: bool
    processes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    unowned: Mapping[str, int] = field(default_factory=dict)
    moving: Mapping[str, int] = field(default_factory=dict)
    pinned: Mapping[str, int] = field(default_factory=dict)
    withdrawn: Mapping[str, int] = field(default_factory=dict)
    fenced: Mapping[str, int] = field(default_factory=dict)
    proxies_away: int = 0


class FleetMetrics(Collector):
    """Collected at a scrape. Only the leader reports the fleet; a standby reports that it does not lead."""

    def __init__(self, registry: CollectorRegistry, numbers: Callable[[], FleetNumbers]) -> None:
        self._numbers = numbers
        registry.register(self)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        now = self._numbers()
        yield GaugeMetricFamily("skep_fleet_leads", "1 where this main leads the fleet", float(now.leads))
        if not now.leads:
            return
        processes = GaugeMetricFamily("skep_fleet_processes", "Processes with a lease", labels=("type", "state"))
        for (worker_type, state), count in now.processes.items():
            processes.add_metric((worker_type, state), count)
        yield processes
        yield _by_kind("skep_fleet_slots_unowned", "Slots without an owner", now.unowned)
        yield _by_kind("skep_fleet_slots_moving", "Slots with a planned next owner", now.moving)
        yield _by_kind("skep_fleet_slots_pinned", "Slots placed by an operator", now.pinned)
        withdrawn = CounterMetricFamily(
            "skep_fleet_moves_withdrawn", "Planned moves that were not carried out in time", labels=("kind",)
        )
        for kind, count in now.withdrawn.items():
            withdrawn.add_metric((kind,), count)
        yield withdrawn
        fenced = CounterMetricFamily("skep_fleet_fenced", "Processes that were declared dead", labels=("type",))
        for worker_type, count in now.fenced.items():
            fenced.add_metric((worker_type,), count)
        yield fenced
        yield GaugeMetricFamily("skep_fleet_proxies_away", "haproxies that do not answer", now.proxies_away)


def _by_kind(name: str, text: str, numbers: Mapping[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=("kind",))
    for kind, count in numbers.items():
        family.add_metric((kind,), count)
    return family


class ParkedRoomsMetrics:
    """Of main. Only the leader's is ever above 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.rooms = Gauge(
            "skep_fleet_rooms_parked",
            "Rooms whose state cannot be resolved within the limits, and that wait for an operator",
            registry=registry,
        )
