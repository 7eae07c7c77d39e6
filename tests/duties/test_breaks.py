"""Each change in `breaks.py` is applied to a copy of the project, where the named test must fail."""

import csv
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.duties.breaks import BREAKS, Break

ROOT = Path(__file__).parents[2]
_PARTS = ("shared", "replication", "workers", "deploy", "load", "tests", "pyproject.toml", "README.md")
_LIMIT_S = 120

# The first test waits for all thirty runs of pytest.
pytestmark = pytest.mark.timeout(30 * _LIMIT_S)


def _evidence() -> dict[str, list[str]]:
    with (ROOT / "tests" / "duties.tsv").open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["id"]: row["evidence"].split() for row in rows if row["status"] == "done"}


def test_breaks_match_thirty_duties_and_the_sources() -> None:
    evidence = _evidence()
    assert len({each.duty for each in BREAKS}) == len(BREAKS) == 30
    assert [each.duty for each in BREAKS if each.test not in evidence[each.duty]] == []
    assert [each for each in BREAKS if (ROOT / each.file).read_text(encoding="utf-8").count(each.old) != 1] == []


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str]]:
    """Return duty -> pytest's exit code and the end of its output."""
    place = tmp_path_factory.mktemp("broken")
    with ThreadPoolExecutor(max_workers=2) as workers:
        return dict(zip((each.duty for each in BREAKS), workers.map(lambda one: _try(one, place), BREAKS), strict=True))


@pytest.mark.parametrize("broken", BREAKS, ids=lambda broken: broken.duty)
def test_named_test_fails_on_the_broken_source(results: dict[str, tuple[int, str]], broken: Break) -> None:
    code, said = results[broken.duty]
    assert code == pytest.ExitCode.TESTS_FAILED, said


def _try(broken: Break, place: Path) -> tuple[int, str]:
    tree = place / broken.duty
    _copy(tree)
    file = tree / broken.file
    source = file.read_text(encoding="utf-8")
    if source.count(broken.old) != 1:
        return -1, f"{broken.file} has {source.count(broken.old)} times: {broken.old}"
    file.unlink()  # a hard link to the original
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()
    file.write_text(source.replace(broken.old, broken.new), encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", broken.test]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": str(tree)}
    done = subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, text=True, timeout=_LIMIT_S, check=False
    )
    shutil.rmtree(tree)
    return done.returncode, done.stdout[-2000:] + done.stderr[-2000:]


def _copy(tree: Path) -> None:
    """Copy the project's sources and compiled files, as hard links where possible."""
    tree.mkdir()
    for part in _PARTS:
        source = ROOT / part
        if source.is_dir():
            ignored = shutil.ignore_patterns("node_modules", ".venv")
            shutil.copytree(source, tree / part, copy_function=_link, ignore=ignored)
        elif source.exists():
            _link(source, tree / part)


def _link(source: str | Path, target: str | Path) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
