"""Metrics of the background jobs: how far behind they are, and what they left out."""

from prometheus_client import CollectorRegistry, Counter, Gauge


class BackgroundMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.behind = Gauge(
            "skep_background_behind",
            "Positions or items that a job has not reached",
            ["step"],
            registry=registry,
        )
        self.stalled_s = Gauge(
            "skep_background_stalled_seconds",
            "Seconds since a job that is behind last moved",
            ["step"],
            registry=registry,
        )
        self.set_aside = Gauge(
            "skep_background_set_aside",
            "Items that a job left out, because each attempt at them failed",
            ["step"],
            registry=registry,
        )
        self.overdue = Gauge(
            "skep_background_overdue",
            "Pieces of pending work that are unfinished after many attempts",
            ["work"],
            registry=registry,
        )
        self.failures = Counter(
            "skep_background_failures_total",
            "Attempts at a piece of background work that failed unexpectedly",
            ["job"],
            registry=registry,
        )
