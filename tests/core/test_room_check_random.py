"""Random rooms with forks, merges, wrong claims, rejected and soft-failed events. As the model stores them, the check
finds nothing. After a change to one of their entries it finds something, of any kind.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.core.state_resolution.random_rooms import RandomRoom, random_rooms
from tests.graph_rooms import GraphRoom

_USUAL: dict[str, Any] = {"deadline": None, "suppress_health_check": list(HealthCheck)}


def _stored(random: RandomRoom) -> GraphRoom:
    """Let all events arrive in the order in which they were made."""
    room = GraphRoom(random.version.name, begun=False)
    for event in random.events.values():
        room.arrive(event)
    return room


def _check_agrees(random: RandomRoom) -> None:
    found = [each for each in _stored(random).check() if not each.is_note]
    assert found == []


@settings(max_examples=40, **_USUAL)
@given(random_rooms())
def test_random_rooms_have_no_findings(random: RandomRoom) -> None:
    _check_agrees(random)


@pytest.mark.soak
@settings(max_examples=1000, **_USUAL)
@given(random_rooms(max_events=60))
def test_many_random_rooms_have_no_findings(random: RandomRoom) -> None:
    _check_agrees(random)


@settings(max_examples=40, **_USUAL)
@given(random_rooms(), st.integers(0, 10**6))
def test_lost_state_change_is_found(random: RandomRoom, number: int) -> None:
    room = _stored(random)
    del room.line[number % len(room.line)]
    assert [each for each in room.check() if not each.is_note]
