"""A simulated fleet keeps its invariants under the faults of each seed, and the simulator finds planted bugs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.planted import PLANTED
from tests.simulation.runs import failures, first_found, run_seed, story_of
from tests.simulation.world import World

#: Number of seeds tried for a planted bug. Most bugs show within ten.
_SEEDS_PER_BUG = 2000


@pytest.mark.parametrize("first", range(0, 2000, 100))
def test_invariants_hold_in_two_thousand_seeds(first: int) -> None:
    """Each test runs a hundred seeds, so that several processes can share the work."""
    failed = next((seed for seed in range(first, first + 100) if run_seed(seed)), None)
    assert failed is None, story_of(failed)


@pytest.mark.soak
def test_invariants_hold_in_many_seeds() -> None:
    found = next(failures(range(2000, 60_000)), None)
    assert found is None, story_of(found[0])


@pytest.mark.timeout(600)  # a rare bug needs many seeds
@pytest.mark.parametrize("bug", PLANTED)
def test_simulator_finds_planted_bug(bug: str) -> None:
    assert first_found(bug, _SEEDS_PER_BUG) is not None, f"{bug!r} was not found in {_SEEDS_PER_BUG} seeds"


def test_failing_seed_prints_trace_and_command() -> None:
    seed = first_found("skipped announcement", _SEEDS_PER_BUG)
    assert seed is not None
    story = story_of(seed, "skipped announcement")
    assert "has lease" in story
    assert f"again: python -m tests.simulation {seed} --bug 'skipped announcement'" in story


def test_seed_gives_same_run_in_every_process() -> None:
    """A run depends neither on addresses of objects, nor on string hashes, nor on earlier runs."""
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
