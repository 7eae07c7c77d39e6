"""Metrics of the users' shares in scarce work."""

from collections.abc import Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Places(Protocol):
    """The places of one kind of work (`shared/runtime/fair_shares.py`)."""

    refused: int

    @property
    def held(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class ShareMetrics(Collector):
    """Collected at a scrape, so that a request costs nothing more."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._places: dict[str, Places] = {}
        registry.register(self)

    def show(self, name: str, places: Places) -> None:
        """Include the places of one kind of work."""
        self._places[name] = places

    def collect(self) -> Iterator[Metric]:
        held = GaugeMetricFamily("skep_shares_held", "Places in use for scarce work", labels=["share"])
        waiting = GaugeMetricFamily("skep_shares_waiting", "Requests that wait for a place", labels=["share"])
        refused = CounterMetricFamily("skep_shares_refused", "Requests refused for want of a place", labels=["share"])
        for name, places in self._places.items():
            held.add_metric([name], places.held)
            waiting.add_metric([name], places.waiting)
            refused.add_metric([name], places.refused)
        yield from (held, waiting, refused)
