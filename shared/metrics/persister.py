"""Metrics of the event persister: statements, batches, failures, rooms in memory."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class PersisterMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter("skep_persister_events_total", "Events stored", registry=registry)
        self.statements = Counter(
            "skep_persister_statements_total",
            "Statements that stored events, refused ones included",
            registry=registry,
        )
        self.refused = Counter(
            "skep_persister_statements_refused_total",
            "Statements that the database refused, so that their batch was halved",
            registry=registry,
        )
        self.batch_events = Histogram(
            "skep_persister_batch_events",
            "Events in one statement",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
            registry=registry,
        )
        self.commit_seconds = Histogram(
            "skep_persister_commit_seconds",
            "Seconds of one statement, its way to the database included",
            buckets=_SECONDS,
            registry=registry,
        )
        self.waiting = Gauge(
            "skep_persister_writes_waiting", "Writes that wait for the statement under way", registry=registry
        )
        self.lock_timeouts = Counter(
            "skep_persister_lock_timeouts_total",
            "Statements that met a row locked by another session",
            registry=registry,
        )
        self.apart = Gauge(
            "skep_persister_rooms_apart",
            "Rooms whose writes wait for rows locked by another session",
            registry=registry,
        )
        self.given_up = Counter(
            "skep_persister_rooms_given_up_total",
            "Rooms whose writes failed, since their rows stayed locked",
            registry=registry,
        )
        self.rooms = Gauge("skep_persister_rooms", "Rooms in memory", registry=registry)
        self.rooms_bytes = Gauge(
            "skep_persister_rooms_bytes", "Estimated size of the rooms in memory", registry=registry
        )
        self.push_rules_bytes = Gauge(
            "skep_persister_push_rules_bytes",
            "Estimated size of the push rules and ignore lists of the members of the rooms in memory",
            registry=registry,
        )
        self.push_rules_exceeded = Counter(
            "skep_persister_push_rules_exceeded_total",
            "Users whose own push rules would have taken too many steps with an event, so that some did not match",
            registry=registry,
        )
        self.room_loads = Counter("skep_persister_room_loads_total", "Rooms read from the database", registry=registry)
