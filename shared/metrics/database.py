"""Metrics of a process's database connections and statements."""

from collections.abc import Callable, Iterator
from typing import Protocol

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


class Use(Protocol):
    """The current use of a pool: connections lent and idle, and callers that wait for one."""

    @property
    def lent(self) -> int: ...

    @property
    def idle(self) -> int: ...

    @property
    def waiting(self) -> int: ...


class DatabaseMetrics(Collector):
    """Collected at a scrape from existing counts, so that statements cost nothing more."""

    def __init__(self, registry: CollectorRegistry, statements: Callable[[], int], use: Callable[[], Use]) -> None:
        """Register the metrics.

        statements: the number of statements so far, on all connections of the process except its heartbeat's.
        use: the current use of the pool.
        """
        self._statements = statements
        self._use = use
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily("skep_database_statements", "Statements sent to Postgres", self._statements())
        use = self._use()
        connections = GaugeMetricFamily("skep_database_connections", "Open connections of the pool", labels=["state"])
        connections.add_metric(["lent"], use.lent)
        connections.add_metric(["idle"], use.idle)
        yield connections
        yield GaugeMetricFamily("skep_database_waiting", "Callers that wait for a connection", use.waiting)
