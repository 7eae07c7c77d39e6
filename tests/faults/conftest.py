"""A fleet of all worker types, with PostgreSQL and Redis behind proxies that inject faults."""

import os
from collections.abc import Iterator

import pytest

from tests.faults.servers import Servers, running_servers
from tests.faults.traffic import ObservedFleet
from tests.fix_fleet import run_fleet

SEED = int(os.environ.get("SKEP_FAULT_SEED", "7"))


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    with running_servers(SEED) as running:
        yield running


@pytest.fixture(scope="package")
def observed(servers: Servers) -> Iterator[ObservedFleet]:
    """Three persisters, two of each other type that clients need, one of each other. Tests leave the fleet complete."""
    counts = {"main": 2, "event_persister": 3, "synchrotron": 2, "client_api": 2}
    for fleet in run_fleet({**servers.settings(), "fleet": counts}):
        yield ObservedFleet(fleet, servers.dsn)
