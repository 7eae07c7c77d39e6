"""Metrics of quotas: what users were refused because they store too much."""

from prometheus_client import CollectorRegistry, Counter


class QuotaMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.refused = Counter(
            "skep_quota_refused_total",
            "Requests, or messages for single devices, that would have exceeded a quota, by setting",
            ("quota",),
            registry=registry,
        )
