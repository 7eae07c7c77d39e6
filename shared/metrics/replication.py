"""Metrics of replication and of the statements that write under a lease."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ReplicationMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("skep_replication_rows_total", "Rows applied", ("stream",), registry=registry)
        self.gaps = Counter(
            "skep_replication_gaps_total", "Gaps seen in frames or ticks", ("stream",), registry=registry
        )
        self.repairs = Counter(
            "skep_replication_repairs_total",
            "Times that missing rows were read from Postgres",
            ("stream",),
            registry=registry,
        )
        self.ignored = Counter(
            "skep_replication_messages_ignored_total",
            "Messages of another or unknown form",
            registry=registry,
        )


class ProbeMetrics:
    """Metrics of main. Only the leader's are ever above 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stalled = Gauge(
            "skep_stream_stalled_writers",
            "Writers with rows in the database that were not announced on the bus",
            ("stream",),
            registry=registry,
        )


class StandbyMetrics:
    """Metrics of main. Only the leader's are ever above 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.standby = Gauge(
            "skep_fleet_standby",
            "PostgreSQL has no standby (0), an asynchronous one (1), a synchronous one (2)",
            registry=registry,
        )


class LoopMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.blocked = Histogram(
            "skep_loop_blocked_seconds",
            "Delay with which the event loop woke a sleeping task",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0),
            registry=registry,
        )
        self.stalls = Counter(
            "skep_loop_stalls_total",
            "Times that the event loop was seen blocked for over 50 ms, by the endpoint at work",
            ("endpoint",),
            registry=registry,
        )


class LifeMetrics:
    def __init__(self, registry: CollectorRegistry, rejoins: int) -> None:
        """rejoins: the number of times that the process lost its lease and rejoined. Other metrics start over then."""
        Counter(
            "skep_rejoins_total", "Times that the process rejoined the fleet without a restart", registry=registry
        ).inc(rejoins)
