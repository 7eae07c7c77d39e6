"""Two fleets whose logs and spans are examined, each shared by all tests of the session that need one like it.

    watched_fleet   JSON logs at level debug, every request traced to `jaeger_agent`
    limited_fleet   rate limits as in production, but smaller; plain logs; tracing off, with an idle agent

Do not kill their processes. Each test registers its own users.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.fix_fleet import RunningFleet, run_shared_fleet
from tests.fleet.jaeger_agent import JaegerAgent
from tests.fleet.people import register

_SMALL: dict[str, int] = {
    "event_persister": 2,
    "synchrotron": 1,
    "client_api": 2,
    "federation_sender": 0,
    "background": 0,
    "media": 0,
}
#: Of `watched_fleet`.
MAX_BODY_BYTES = 900_000
#: The rate limits of `limited_fleet`. Other classes have no limit.
LIMITS: dict[str, dict[str, Any]] = {
    "message": {"per_second": 4, "burst": 32},
    "registration": {"per_second": 0.5, "burst": 12},
    "login": {"per_second": 0.5, "burst": 4},
    "account": {"per_second": 0.4, "burst": 5},
}


@pytest.fixture(scope="session")
def jaeger_agent() -> Iterator[JaegerAgent]:
    with JaegerAgent() as agent:
        yield agent


@pytest.fixture(scope="session")
def idle_jaeger_agent() -> Iterator[JaegerAgent]:
    """The agent in the configuration of `limited_fleet`."""
    with JaegerAgent() as agent:
        yield agent


@pytest.fixture(scope="session")
def watched_fleet(jaeger_agent: JaegerAgent) -> Iterator[RunningFleet]:
    yield from _settled(
        {
            "fleet": _SMALL,
            "logging": {"format": "json", "level": "debug"},
            "limits": {"max_body_bytes": MAX_BODY_BYTES},
            "accounts": {"refreshable_access_token_lifetime_s": 1},
            "tracing": {"enabled": True, "sample_rate": 1.0, "agent_port": jaeger_agent.port},
        }
    )


@pytest.fixture(scope="session")
def limited_fleet(idle_jaeger_agent: JaegerAgent) -> Iterator[RunningFleet]:
    yield from _settled(
        {
            "fleet": _SMALL,
            "rate_limits": LIMITS,
            "logging": {"format": "plain", "level": "info"},
            "tracing": {"enabled": False, "sample_rate": 1.0, "agent_port": idle_jaeger_agent.port},
        }
    )


def _settled(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[RunningFleet]:
    """Wait until all slots have owners. A later 503 is a fault and not caused by the start."""
    for fleet in run_shared_fleet(settings):
        first = register(fleet, "first")
        end = time.monotonic() + 10
        while first.call("POST", "/createRoom", {}).status != 200:
            assert time.monotonic() < end, fleet.logs()
            time.sleep(0.1)
        yield fleet
