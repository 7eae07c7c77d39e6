"""Metrics of the traffic with other servers."""

from prometheus_client import CollectorRegistry, Counter


class FederationMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.key_fetches = Counter(
            "skep_server_key_fetches_total",
            "Questions for keys of other servers, by who was asked (server, notary), and outcome (ok, failed, refused)",
            ["asked", "outcome"],
            registry=registry,
        )
