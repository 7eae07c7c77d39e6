"""The walk: every step on one fleet, then what the record says."""

from collections.abc import Callable, Iterator, Mapping

import pytest

from tests.fix_fleet import RunningFleet
from tests.spec_walk.operations import SPEC, operations
from tests.spec_walk.steps import devices, membership, personal, reading, writing
from tests.spec_walk.walker import Walker

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason="the specification's data is not beside this checkout")

STEPS: tuple[Callable[[Walker], None], ...] = (
    *membership.STEPS, *writing.STEPS, *reading.STEPS, *personal.STEPS, *devices.STEPS,
)  # fmt: skip

#: Declared answers that the walk doesn't provoke, with the reason. 429 of every operation: `test_rate_limits.py`
#: exhausts each class of limits, and the limits of this fleet are those of development.
NOT_PROVOKED: Mapping[tuple[str, int], str] = {
    ("inviteBy3PID", 200): "no identity server is configured; inviting by third-party ids comes with accounts",
    ("inviteBy3PID", 403): "as above: refused before the room is asked",
    ("updateDevice", 201): "for application services, which come later",
    ("reportRoom", 404): "200 for any room, as the spec allows, so that nobody learns which rooms exist",
    ("getPresence", 404): "only with presence switched off; who does not exist is as forbidden as a stranger",
    ("reportUser", 404): "200 for any user, as the spec allows, so that nobody learns which accounts exist",
    ("initialSync", 404): "the spec gives it to a guest's absent room; no request of a user's own causes it",
    ("setPushRule", 404): "a rule that is not there is made; an unknown `before` or `after` is 400, as in the example",
    ("createRoom", 403): "no configuration of this fleet forbids anybody to create rooms",
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
    """Each operation succeeded once, and each declared error was provoked, or stands above with its reason."""
    asked = [item for item in request.session.items if item.path == request.path]
    if len(asked) <= len(STEPS):
        pytest.skip("only a part of the walk was chosen")
    missing = []
    for name, operation in sorted(operations().items()):
        met = {status for status, _ in walk.met[name]}
        for status in sorted(operation.responses):
            if status not in met and status != 429 and (name, status) not in NOT_PROVOKED:
                missing.append((name, status))
    assert not missing


def test_what_is_excused_is_declared_and_true(walk: Walker) -> None:
    for name, status in NOT_PROVOKED:
        assert status in operations()[name].responses
        assert status not in {met for met, _ in walk.met[name]}, "it was provoked after all"
