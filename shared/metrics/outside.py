"""Metrics of requests to other servers."""

from prometheus_client import CollectorRegistry, Counter


class OutsideMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter(
            "skep_outside_requests_total",
            "Requests to other servers, by outcome: 2xx to 5xx, denied, certificate, timeout, failed",
            ["outcome"],
            registry=registry,
        )
