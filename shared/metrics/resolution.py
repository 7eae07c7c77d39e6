"""Metrics of state resolution: number, lane, seconds, loaded events."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)


class ResolutionMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.seconds = Histogram(
            "skep_state_resolution_seconds",
            "Seconds of one resolution, waiting included, by where it ended: loop, quick or big thread",
            ["lane"],
            buckets=_SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "skep_state_resolutions_refused_total",
            "Resolutions refused: too many waiting, over the limits of events, bytes or time, or no memory left",
            ["why"],
            registry=registry,
        )
        self.parked = Counter(
            "skep_state_resolution_rooms_parked_total",
            "Rooms parked by this process, since their state cannot be resolved within the limits",
            registry=registry,
        )
        self.waiting = Gauge(
            "skep_state_resolutions_waiting",
            "Resolutions that wait for a thread or run in one",
            ["lane"],
            registry=registry,
        )
        self.loaded = Counter(
            "skep_state_resolution_events_loaded_total", "Events read from the database", registry=registry
        )
        self.pages = Counter(
            "skep_state_resolution_pages_total", "Statements that read these events", registry=registry
        )
