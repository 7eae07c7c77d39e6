"""The simulated fleet holds its promises under whatever a seed brings, and finds the bugs that are planted in it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.runs import account_of, failures, first_found, run_seed
from tests.simulation.world import World

#: How many seeds a planted bug may need. Most show within the first ten.
_PATIENCE = 600


@pytest.mark.parametrize("first", range(0, 2000, 100))
def test_two_thousand_seeds(first: int) -> None:
    """A hundred of them for each test, so that several processes can share the work."""
    failed = next((seed for seed in range(first, first + 100) if run_seed(seed)), None)
    assert failed is None, account_of(failed)


@pytest.mark.soak
def test_many_seeds() -> None:
    found = next(failures(range(2000, 60_000)), None)
    assert found is None, account_of(found[0])


@pytest.mark.timeout(600)  # it may need many seeds
@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    assert first_found(bug, _PATIENCE) is not None, f"{bug!r} was not found in {_PATIENCE} seeds"


def test_a_failing_seed_tells_its_story() -> None:
    seed = first_found("forgotten announcement", _PATIENCE)
    assert seed is not None
    story = account_of(seed, "forgotten announcement")
    assert "has lease" in story
    assert f"again: python -m tests.simulation {seed} --bug 'forgotten announcement'" in story


def test_a_seed_gives_the_same_run_in_every_process() -> None:
    """Nothing depends on where objects lie in memory, how strings hash, or what ran before."""
    digests = []
    for seed in (3, 14, 3):
        world = World(seed)
        world.run()
        digests.append(world.digest())
    assert digests[0] == digests[2] != digests[1]
    program = "from tests.simulation.world import World; w = World(3); w.run(); print(w.digest())"
    answer = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "77"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert int(answer.stdout) == digests[0]
