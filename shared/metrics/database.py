"""How many statements a process sent to Postgres: the load reports divide it by what was done."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector


class StatementMetrics(Collector):
    """Reads the counts where they are kept, at a scrape: nothing is added to the path of a statement."""

    def __init__(self, registry: CollectorRegistry, counted: Callable[[], int]) -> None:
        """counted: the statements so far, of all the process's connections but its heartbeat's."""
        self._counted = counted
        registry.register(self)

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily("skep_database_statements", "Statements sent to Postgres", self._counted())
