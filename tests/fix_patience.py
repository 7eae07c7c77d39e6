"""Limits of the wall clock that allow for a busy machine.

patience    patience(3.0) returns 3 s, times how much slower than on an idle machine the processor was since the test
            began
"""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest

from tests.rigs.directories import server_directory

Patience: TypeAlias = Callable[[float], float]

#: A process of its own, since the tests' own interpreter is busy in its own ways. It works for 2 ms of CPU five times a
#: second, and writes down when, and how much longer that took.
_PROBE = """
import sys, time
with open(sys.argv[1], "w") as file:
    while True:
        began, worked = time.monotonic(), time.process_time()
        while time.process_time() - worked < 0.002:
            pass
        print(began, (time.monotonic() - began) / (time.process_time() - worked), file=file, flush=True)
        time.sleep(0.2)
"""


@pytest.fixture(scope="session")
def slowness_since() -> Iterator[Callable[[float], float]]:
    """Return a function: since a monotonic time -> how often longer work took than on an idle machine; at least 1."""
    with server_directory("probe") as directory:
        path = directory / "slowness"
        path.touch()
        with subprocess.Popen([sys.executable, "-S", "-c", _PROBE, str(path)]) as probe:

            def mean(began: float) -> float:
                rows = [line.split() for line in path.read_text().splitlines() if line.count(" ") == 1]
                found = [float(ratio) for at, ratio in rows if float(at) >= began]
                return max(1.0, sum(found) / len(found)) if found else 1.0

            yield mean
            probe.kill()


@pytest.fixture
def patience(slowness_since: Callable[[float], float]) -> Patience:
    began = time.monotonic()
    return lambda seconds: seconds * slowness_since(began)
