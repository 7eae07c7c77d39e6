"""The pages that every process has and that haproxy lets nobody outside reach: health and metrics."""

import asyncio
from collections.abc import Callable

import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from shared.http.request import Response

#: Paths that are pages of a process.
PAGES = (b"/health/live", b"/health/ready", b"/metrics")


class ProcessPages:
    """`/health/live`: the process runs; `/health/ready`: it may be given work; `/metrics`: Prometheus text."""

    def __init__(self, registry: CollectorRegistry, *, ready: Callable[[], bool], metrics: bool) -> None:
        self._registry = registry
        self._ready = ready
        self._metrics = metrics

    async def page(self, path: bytes) -> Response | None:
        """Return the page at this path, None when there is none."""
        if path == b"/health/live":
            return Response(orjson.dumps({"status": "live"}))
        if path == b"/health/ready":
            ready = self._ready()
            return Response(orjson.dumps({"status": "ready" if ready else "not ready"}), 200 if ready else 503)
        if path == b"/metrics" and self._metrics:
            # A scrape would hold the loop for 20 ms per 100 kB.
            text = await asyncio.to_thread(generate_latest, self._registry)
            return Response(text, content_type=CONTENT_TYPE_LATEST.encode())
        return None
