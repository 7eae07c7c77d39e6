"""Oracle and engine on the scenarios, in every room version that each applies to."""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import permutations

import pytest

from shared.core.identifiers import EventId
from shared.core.room_versions import ROOM_VERSIONS
from tests.core.state_resolution import oracle
from tests.core.state_resolution.scenario import BuiltRoom, load_scenarios

SCENARIOS = {scenario.name: scenario for scenario in load_scenarios()}

Result = dict[tuple[str, str], EventId]
Resolve = Callable[..., Result]


@pytest.mark.parametrize("name", SCENARIOS)
def test_oracle_resolves_scenarios(name: str) -> None:
    check(name, oracle.resolve)


@pytest.mark.parametrize("name", SCENARIOS)
def test_engine_resolves_scenarios(name: str) -> None:
    # Imported late, so that the scenarios test the oracle without the engine.
    from shared.core.state_resolution import resolve

    check(name, resolve)


def check(name: str, resolve: Resolve) -> None:
    """Resolve the scenario's states in every order, in each of its room versions."""
    scenario = SCENARIOS[name]
    for version in scenario.versions():
        room = built(name, version.name)
        states = [room.state(description) for description in scenario.data["states"]]
        expected = named(room, scenario.expected(room, states))
        for order in permutations(states):
            result = resolve(version, order, room.find, rejected=room.rejected.__contains__, create=room.create)
            assert named(room, result) == expected, f"room version {version.name}. {scenario.data['reason']}"


@cache
def built(name: str, version_name: str) -> BuiltRoom:
    return SCENARIOS[name].build(ROOM_VERSIONS[version_name])


def named(room: BuiltRoom, state: Mapping[tuple[str, str], EventId]) -> dict[tuple[str, str], str]:
    return {key: room.name_of(event_id) for key, event_id in state.items()}


def test_scenarios_are_complete() -> None:
    assert len(SCENARIOS) >= 60
    for scenario in SCENARIOS.values():
        wanted = {"title", "versions", "room", "states", "expected", "reason"}
        assert wanted <= scenario.data.keys() <= wanted | {"events"}, scenario.name
        assert scenario.versions(), scenario.name
