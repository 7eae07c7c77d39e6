"""The status of a running fleet, and the internal pages of each process."""

import asyncio
import http.client
from collections.abc import Callable
from typing import Any

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.fix_fleet import RunningFleet

#: Types in `skep status` that are not workers and serve no pages.
PROGRAMS = ("postgres", "redis", "haproxy")

_PROCESS_LIMIT_S = 20.0


def workers(status: dict[str, Any]) -> list[dict[str, Any]]:
    return [each for each in status["processes"] if each["type"] not in PROGRAMS]


def owner_of(status: dict[str, Any], kind: str, slot: int) -> str | None:
    """Return the name of the process that owns a slot."""
    owner: str | None = next(each["owner"] for each in status["slots"][kind] if each["first"] <= slot <= each["last"])
    return owner


def get(address: str, path: str) -> tuple[int, str]:
    """Return status and body of a page. address: host:port."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def metrics(process: dict[str, Any]) -> list[Metric]:
    """Scrape a process like Prometheus. Raises ValueError when the text does not parse."""
    status, text = get(process["address"], "/metrics")
    assert status == 200, f"{process['name']}: {status} {text[:200]}"
    return list(text_string_to_metric_families(text))


def requests_served(process: dict[str, Any], endpoint: str) -> float:
    """Return the number of requests to an endpoint that the process has answered."""
    samples = (sample for family in metrics(process) for sample in family.samples)
    return sum(
        float(sample.value)
        for sample in samples
        if sample.name == "skep_http_requests_total" and sample.labels["endpoint"] == endpoint
    )


async def wait_for_process(
    fleet: RunningFleet, wanted: Callable[[dict[str, Any]], bool], limit_s: float = _PROCESS_LIMIT_S
) -> dict[str, Any]:
    """Wait for a process of `skep status` that satisfies `wanted`, and return it."""
    end = asyncio.get_running_loop().time() + limit_s
    while True:
        status = await asyncio.to_thread(fleet.status)
        found: dict[str, Any] | None = next((each for each in status["processes"] if wanted(each)), None)
        if found is not None:
            return found
        assert asyncio.get_running_loop().time() < end, f"no such process within {limit_s} s: {status['processes']}"
        await asyncio.sleep(0.2)
