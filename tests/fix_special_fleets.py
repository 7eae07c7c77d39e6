"""Fleets with settings of their own, each shared by all tests of the session that need one like it.

    watched_fleet    JSON logs at level debug, every request traced to `jaeger_agent`
    limited_fleet    rate limits as in production, but smaller; plain logs; tracing off, with an idle agent
    restless_fleet   soon notices a dead process; no rate limits
    experimental_fleet    experimental features on; no rate limits

Tests may kill workers of the last two. These are whole again before the next test. Each test registers its own users.
"""

import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.fix_fleet import RunningFleet, run_shared_fleet
from tests.fleet.jaeger_agent import JaegerAgent
from tests.fleet.people import register
from tests.rigs.waiting import wait_until

_SMALL: dict[str, int] = {
    "event_persister": 2,
    "synchrotron": 1,
    "client_api": 2,
    "federation_sender": 0,
    "background": 0,
    "media": 0,
}
_CLIENTS_NEED = ("event_persister", "synchrotron", "client_api")
_TWO_OF_EACH: dict[str, int] = {
    **dict.fromkeys((*_CLIENTS_NEED, "background"), 2),
    **dict.fromkeys(("federation_reader", "federation_sender", "media"), 0),
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


@pytest.fixture(scope="session")
def _restless_fleet() -> Iterator[RunningFleet]:
    yield from run_shared_fleet(
        {
            "fleet": _TWO_OF_EACH,
            "replication": {"heartbeat_s": 0.5, "dead_after_s": 1.5},
            "rate_limits": {"message": None, "read": None, "account": None},
            "registration": {"allow_guests": True},
            "delayed_events": {"max_delay_s": 3600, "max_scheduled": 250},
        }
    )


@pytest.fixture
def restless_fleet(_restless_fleet: RunningFleet) -> RunningFleet:
    return _whole(_restless_fleet)


@pytest.fixture(scope="session")
def _experimental_fleet() -> Iterator[RunningFleet]:
    yield from run_shared_fleet(
        {
            "fleet": {**_TWO_OF_EACH, "background": 1},
            "rate_limits": {"message": None, "read": None},
            "experimental": {"msc4306_thread_subscriptions": True, "msc4354_sticky_events": True},
        }
    )


@pytest.fixture
def experimental_fleet(_experimental_fleet: RunningFleet) -> RunningFleet:
    return _whole(_experimental_fleet)


def _whole(fleet: RunningFleet) -> RunningFleet:
    """Wait until the workers that an earlier test killed are ready."""

    def is_whole() -> bool:
        ready = [each for each in fleet.status()["processes"] if each["ready"]]
        return all(sum(each["type"] == kind for each in ready) >= 2 for kind in _CLIENTS_NEED)

    wait_until(is_whole, fleet.logs)
    return fleet


def _settled(settings: Mapping[str, Mapping[str, Any]]) -> Iterator[RunningFleet]:
    """Wait until all slots have owners. A later 503 is a fault and not caused by the start."""
    for fleet in run_shared_fleet(settings):
        first = register(fleet, "first")
        end = time.monotonic() + 10
        while first.call("POST", "/createRoom", {}).status != 200:
            assert time.monotonic() < end, fleet.logs()
            time.sleep(0.1)
        yield fleet
