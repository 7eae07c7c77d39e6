"""Metrics of the HTTP server: requests by endpoint, method and status; seconds; requests under way."""

import time

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class HttpMetrics:
    """Children are bound once per (endpoint, method, status), since `labels()` costs four times an increment."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "skep_http_requests_total",
            "Requests answered",
            ("endpoint", "method", "status"),
            registry=registry,
        )
        self._seconds = Histogram(
            "skep_http_request_seconds",
            "Seconds from the first byte read to the last byte handed over",
            ("endpoint",),
            buckets=_BUCKETS,
            registry=registry,
        )
        self._under_way = Gauge("skep_http_requests_under_way", "Requests being served", registry=registry)
        self._turned_away = Counter(
            "skep_http_turned_away_total",
            "Requests refused since too much was under way, or their body was too slow",
            ("what",),
            registry=registry,
        )
        self._count: dict[tuple[str, str, int], Counter] = {}
        self._time: dict[str, Histogram] = {}

    def start(self) -> float:
        self._under_way.inc()
        return time.perf_counter()

    def finish(self, started: float, endpoint: str, method: str, status: int) -> None:
        self._under_way.dec()
        key = (endpoint, method, status)
        counter = self._count.get(key)
        if counter is None:
            # Unknown methods share one label, so that hostile clients cannot make the label sets grow.
            label = method if method in ("GET", "PUT", "POST", "DELETE", "OPTIONS", "PATCH", "HEAD") else "other"
            counter = self._requests.labels(endpoint, label, str(status))
            if label == method:
                self._count[key] = counter
        counter.inc()
        histogram = self._time.get(endpoint)
        if histogram is None:
            histogram = self._time[endpoint] = self._seconds.labels(endpoint)
        histogram.observe(time.perf_counter() - started)

    def turned_away(self, what: str) -> None:
        """Count a request that was refused. what: the thing of which there were too many."""
        self._turned_away.labels(what).inc()
