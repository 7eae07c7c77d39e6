"""Metrics of the synchrotron."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class SyncMetrics:
    """Metrics of /sync. The database statements per answer are queries / syncs."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._children: dict[str, tuple[Counter, Histogram]] = {}
        self._syncs = Counter("skep_sync_answers_total", "Answers of /sync", ("kind",), registry=registry)
        self._seconds = Histogram(
            "skep_sync_seconds",
            "Time to assemble one answer of /sync, without waiting",
            ("kind",),
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0),
            registry=registry,
        )
        self.queries = Counter(
            "skep_sync_queries_total", "Database statements of /sync and of its caches", registry=registry
        )
        self.waiting = Gauge("skep_sync_waiting", "Requests of /sync that wait for changes", registry=registry)
        self.wake_ups = Counter("skep_sync_wake_ups_total", "Waiting requests that a row woke", registry=registry)
        self.room_hits = Counter("skep_room_cache_hits_total", "Rooms found in memory", registry=registry)
        self.room_misses = Counter("skep_room_cache_misses_total", "Rooms read from Postgres", registry=registry)
        self.room_drops = Counter(
            "skep_room_cache_drops_total", "Rooms evicted from memory", ("why",), registry=registry
        )
        self.room_bytes = Gauge("skep_room_cache_bytes", "Estimated size of the rooms in memory", registry=registry)
        self.long_waiting = Gauge(
            "skep_sync_long_answers_waiting",
            "Long answers that wait to begin, or for their next turn",
            ("turn",),
            registry=registry,
        )
        self.users = Gauge("skep_sync_users", "Users whose rooms are in memory", registry=registry)

    def answers(self, kind: str) -> tuple[Counter, Histogram]:
        """Return the counter and histogram for a kind of answers. They are cached, since `labels()` is slow."""
        children = self._children.get(kind)
        if children is None:
            children = self._children[kind] = self._syncs.labels(kind), self._seconds.labels(kind)
        return children
