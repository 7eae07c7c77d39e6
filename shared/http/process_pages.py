"""The pages of every process, which haproxy hides from the outside: health and metrics."""

import asyncio
from collections.abc import Callable

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shared.http.request import Response

#: The paths of these pages.
PAGES = (b"/health/live", b"/health/ready", b"/metrics")


class ProcessPages:
    """The pages of a process.

    /health/live: the process runs.
    /health/ready: it may be given work.
    /metrics: Prometheus text.
    """

    def __init__(self, registry: CollectorRegistry, *, ready: Callable[[], bool], metrics: bool) -> None:
        self._registry = registry
        self._ready = ready
        self._metrics = metrics

    async def page(self, path: bytes) -> Response | None:
        """Return the page at this path, or None."""
        if path == b"/health/live":
            return Response(orjson.dumps({"status": "live"}))
        if path == b"/health/ready":
            ready = self._ready()
            return Response(orjson.dumps({"status": "ready" if ready else "not ready"}), 200 if ready else 503)
        if path == b"/metrics" and self._metrics:
            # In a thread, since a scrape would block the loop for 20 ms per 100 kB.
            text = await asyncio.to_thread(generate_latest, self._registry)
            return Response(text, content_type=CONTENT_TYPE_LATEST.encode())
        return None
