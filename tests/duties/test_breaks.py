"""Each duty in `breaks.py` is broken, and the named test must fail."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.duties.breaks import BREAKS, Break
from tests.duties.broken import RESULT

ROOT = Path(__file__).parents[2]


def test_breaks_match_thirty_duties() -> None:
    with (ROOT / "tests" / "duties.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    evidence = {row["id"]: row["evidence"].split() for row in rows if row["status"] == "done"}
    assert len({each.duty for each in BREAKS}) == len(BREAKS) == 30
    assert [each.duty for each in BREAKS if each.test not in evidence[each.duty]] == []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, str]]:
    """Return duty -> (True if its test failed, the end of its report), from another process."""
    result = tmp_path_factory.mktemp("broken") / "result.json"
    tests = list(dict.fromkeys(each.test for each in BREAKS))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.duties.broken", *tests]
    environment = {**os.environ, RESULT: str(result)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert result.exists(), done.stdout + done.stderr
    found: dict[str, tuple[bool, str]] = json.loads(result.read_text())
    return found


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.duty)
def test_named_test_fails_on_broken_code(results: dict[str, tuple[bool, str]], broken: Break) -> None:
    failed, told = results[broken.duty]
    assert failed, told
