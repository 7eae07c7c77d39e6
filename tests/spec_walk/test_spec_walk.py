"""The walk: every step on one fleet, then the checks of the recorded answers."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.fix_fleet import RunningFleet
from tests.spec_walk.operations import SPEC, operations
from tests.spec_walk.steps import devices, membership, personal, reading, writing
from tests.spec_walk.walker import Walker

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason="the specification's data is not beside this checkout")

STEPS: tuple[Callable[[Walker], None], ...] = (
    *membership.STEPS,
    *writing.STEPS,
    *reading.STEPS,
    *personal.STEPS,
    *devices.STEPS,
)

#: Declared answers that the walk does not provoke, with the reason. 429 is left out for every operation:
#: `test_rate_limits.py` exhausts each class of limits, and this fleet has the limits of development.
NOT_PROVOKED: Mapping[tuple[str, int], str] = {
    ("inviteBy3PID", 200): "no identity server is configured; inviting by third-party ids comes with accounts",
    ("inviteBy3PID", 403): "as above: refused before the room is checked",
    ("updateDevice", 201): "for application services, which come later",
    ("reportRoom", 404): "200 for any room, as the spec allows, to hide which rooms exist",
    ("getPresence", 404): "only with presence switched off; an unknown user gets 403 like a stranger",
    ("reportUser", 404): "200 for any user, as the spec allows, to hide which accounts exist",
    ("initialSync", 404): "the spec has it for a guest's absent room; no request of a user causes it",
    ("setPushRule", 404): "an absent rule is created; an unknown `before` or `after` gets 400, as in the example",
    ("createRoom", 403): "this fleet's configuration lets every user create rooms",
    ("getUserProfile", 403): "profiles are open in this fleet's configuration",
    ("getProfileField", 403): "profiles are open in this fleet's configuration",
}


@pytest.fixture(scope="module")
def walk(fleet: RunningFleet) -> Iterator[Walker]:
    yield Walker(fleet)


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_step(walk: Walker, step: Callable[[Walker], None]) -> None:
    step(walk)


def test_every_operation_was_called(walk: Walker, request: pytest.FixtureRequest) -> None:
    """Each operation succeeded once, and each declared error was provoked or is listed above with its reason."""
    asked = [item for item in request.session.items if item.path == request.path]
    if len(asked) <= len(STEPS):
        pytest.skip("only a part of the walk was selected")
    missing = []
    for name, operation in sorted(operations().items()):
        met = {status for status, _ in walk.met[name]}
        for status in sorted(operation.responses):
            if status not in met and status != 429 and (name, status) not in NOT_PROVOKED:
                missing.append((name, status))
    assert not missing


def test_excused_answers_are_declared_and_never_seen(walk: Walker) -> None:
    for name, status in NOT_PROVOKED:
        assert status in operations()[name].responses
        assert status not in {met for met, _ in walk.met[name]}, "the walk provokes this answer"
