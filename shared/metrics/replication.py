"""Metrics of replication and of the statements that write under a lease."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class ReplicationMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.rows = Counter("skep_replication_rows_total", "Rows applied", ("stream",), registry=registry)
        self.gaps = Counter(
            "skep_replication_gaps_total", "Gaps seen in frames or ticks", ("stream",), registry=registry
        )
        self.repairs = Counter(
            "skep_replication_repairs_total", "Times that missed rows were read from Postgres", ("stream",),
            registry=registry,
        )  # fmt: skip
        self.ignored = Counter(
            "skep_replication_messages_ignored_total",
            "Messages of another or no known form",
            registry=registry,
        )


class ProbeMetrics:
    """Of main; only the leader's are ever above 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.stalled = Gauge(
            "skep_stream_stalled_writers", "Writers whose rows are in the database and were not heard of on the bus",
            ("stream",), registry=registry,
        )  # fmt: skip


class StandbyMetrics:
    """Of main; only the leader's is ever above 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.standby = Gauge(
            "skep_fleet_standby", "PostgreSQL has no standby (0), an asynchronous (1), a synchronous one (2)",
            registry=registry,
        )  # fmt: skip


class LoopMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.blocked = Histogram(
            "skep_loop_blocked_seconds", "How much later than asked the event loop woke a sleeper",
            buckets=(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0), registry=registry,
        )  # fmt: skip


class LifeMetrics:
    def __init__(self, registry: CollectorRegistry, rejoins: int) -> None:
        """rejoins: how often the process has lost its lease and joined anew; all else counts from the last time."""
        Counter(
            "skep_rejoins_total", "Times that the process joined the fleet anew without ending", registry=registry
        ).inc(rejoins)
