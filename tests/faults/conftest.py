"""One fleet for what breaks and mends itself again: all types, PostgreSQL and Redis behind proxies that fault."""

import os
from collections.abc import Iterator

import pytest

from tests.faults.servers import Servers, running_servers
from tests.faults.traffic import WholeFleet
from tests.fix_fleet import run_fleet

SEED = int(os.environ.get("SKEP_FAULT_SEED", "7"))


@pytest.fixture(scope="package")
def servers() -> Iterator[Servers]:
    with running_servers(SEED) as running:
        yield running


@pytest.fixture(scope="package")
def whole(servers: Servers) -> Iterator[WholeFleet]:
    """Two of each type that clients need, three persisters, one of each other; each test leaves it whole."""
    counts = {"main": 2, "event_persister": 3, "synchrotron": 2, "client_api": 2}
    for fleet in run_fleet({**servers.settings(), "fleet": counts}):
        yield WholeFleet(fleet, servers.dsn)
