"""Run the simulator from the command line.

python -m tests.simulation SEED [--bug NAME]         print what happens in one run
python -m tests.simulation FROM TO [--processes N]   run many seeds, print the first failing run
"""

import argparse
import sys
import time

from tests.simulation.planted import PLANTED
from tests.simulation.runs import failures, run_seed, story_of


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("to", type=int, nargs="?")
    parser.add_argument("--bug", choices=sorted(PLANTED), default="")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.to is None:
        print(story_of(options.seed, options.bug))
        return 1 if run_seed(options.seed, options.bug) else 0
    began = time.monotonic()
    found = list(failures(range(options.seed, options.to), options.processes))
    took = time.monotonic() - began
    print(f"{options.to - options.seed} seeds in {took:.1f} s, {len(found)} failed")
    for seed, failure in found:
        print(f"seed {seed}: {failure}")
    if found:
        print(story_of(found[0][0]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
