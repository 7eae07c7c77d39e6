"""The programs in `tests/cases`, run against a fleet: faults that people have reported in Matrix servers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fix_fleet import RunningFleet, StartFleet

CASES = Path(__file__).parents[1] / "cases"
PROGRAMS = sorted(CASES.glob("[0-9]*.py"))
#: Kills a process of the fleet, so it gets a fleet of its own.
KILLS = "62_profile_interrupted.py"


def run_case(program: Path, url: str, **environment: str) -> None:
    """Run a program to its end. Fail with its whole output if it found a fault."""
    done = subprocess.run(
        [sys.executable, str(program)],
        env={**os.environ, "BASE_URL": url, "REG": "dummy", **environment},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, f"{program.name}:\n{done.stdout}{done.stderr}"


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.name != KILLS], ids=lambda program: program.stem)
def test_case(fleet: RunningFleet, program: Path) -> None:
    run_case(program, fleet.client_url)


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p.name == KILLS], ids=lambda program: program.stem)
def test_case_that_kills_the_client_api(start_fleet: StartFleet, program: Path) -> None:
    fleet = start_fleet()
    pid = fleet.processes()["client_api-1"]["pid"]
    run_case(program, fleet.client_url, KILL=f"kill -9 {pid}")
