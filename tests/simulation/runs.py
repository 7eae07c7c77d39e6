"""Run one seed, or many seeds in several processes."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from multiprocessing import get_context

from tests.simulation.planted import KNOWN_SEEDS, PLANTED
from tests.simulation.world import World

_AT_A_TIME = 50


def run_seed(seed: int, bug: str = "", trace: list[str] | None = None) -> str:
    """Run one seed, with a bug of PLANTED if named. Return the failure, "" if there is none."""
    with PLANTED[bug]() if bug else nullcontext():
        return World(seed, trace).run()


def story_of(seed: int, bug: str = "") -> str:
    """Return the trace of a run, its failure and the command that repeats it."""
    trace: list[str] = []
    failure = run_seed(seed, bug, trace)
    command = f"python -m tests.simulation {seed}" + (f" --bug {bug!r}" if bug else "")
    return "\n".join([*trace, f"seed {seed}: {failure or 'no failure'}", f"again: {command}"])


def first_found(bug: str, seeds: int) -> int | None:
    """Return the first seed that finds a planted bug: the known seed, or one below `seeds`."""
    known = [KNOWN_SEEDS[bug]] if bug in KNOWN_SEEDS else []
    return next((seed for seed in (*known, *range(seeds)) if run_seed(seed, bug)), None)


def failures(seeds: range, processes: int = 2) -> Iterator[tuple[int, str]]:
    """Yield (seed, failure) of each seed that fails."""
    chunks = [seeds[at : at + _AT_A_TIME] for at in range(0, len(seeds), _AT_A_TIME)]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        for found in pool.map(_run_some, chunks):
            yield from found


def _run_some(seeds: Sequence[int]) -> list[tuple[int, str]]:
    return [(seed, failure) for seed in seeds if (failure := run_seed(seed))]
