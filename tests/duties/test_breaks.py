"""Each duty in `breaks.py` and `other_breaks.py` is broken, and the named test must fail."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.duties.breaks import BREAKS, Break
from tests.duties.broken import DUTIES, RESULT
from tests.duties.other_breaks import OTHER_BREAKS, WITHOUT_BREAK

ROOT = Path(__file__).parents[2]


def test_each_done_duty_has_a_break_or_a_reason() -> None:
    with (ROOT / "tests" / "duties.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    evidence = {row["id"]: row["evidence"].split() for row in rows if row["status"] == "done"}
    breaks = (*BREAKS, *OTHER_BREAKS)
    assert len(BREAKS) == 30
    assert len({each.duty for each in breaks}) == len(breaks)
    assert {each.duty[:4] for each in breaks}.isdisjoint(WITHOUT_BREAK)
    assert {each.duty[:4] for each in breaks} | WITHOUT_BREAK.keys() == evidence.keys()
    assert [each.duty for each in breaks if each.test not in evidence[each.duty[:4]]] == []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, str]]:
    return _results_of(BREAKS, tmp_path_factory.mktemp("broken") / "result.json")


@pytest.fixture(scope="module")
def other_results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, str]]:
    return _results_of(OTHER_BREAKS, tmp_path_factory.mktemp("broken") / "result.json")


def _results_of(breaks: Sequence[Break], result: Path) -> dict[str, tuple[bool, str]]:
    """Return duty -> (True if its test failed, the end of its report), from another process."""
    tests = list(dict.fromkeys(each.test for each in breaks))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.duties.broken", *tests]
    environment = {**os.environ, RESULT: str(result), DUTIES: " ".join(each.duty for each in breaks)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.exists(), done.stdout + done.stderr
    found: dict[str, tuple[bool, str]] = json.loads(result.read_text())
    return found


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.duty)
def test_named_test_fails_on_broken_code(results: dict[str, tuple[bool, str]], broken: Break) -> None:
    failed, told = results[broken.duty]
    assert failed, told


@pytest.mark.soak
@pytest.mark.parametrize("broken", OTHER_BREAKS, ids=lambda broken: broken.duty)
def test_other_named_test_fails_on_broken_code(other_results: dict[str, tuple[bool, str]], broken: Break) -> None:
    failed, told = other_results[broken.duty]
    assert failed, told
