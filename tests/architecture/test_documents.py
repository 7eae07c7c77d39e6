"""Documents name files that exist."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_TOP = "shared|replication|workers|deploy|tests|load|docs"
_PATH = re.compile(rf"`((?:{_TOP})/[\w./-]*)`")


def _documents() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.split() if name != "CHANGELOG.md"]


@pytest.mark.parametrize("document", _documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_exist(document: Path) -> None:
    """Check paths in backticks, relative to the project's root or to the document's folder."""
    named = set(_PATH.findall(document.read_text()))
    missing = sorted(name for name in named if not (ROOT / name).exists() and not (document.parent / name).exists())
    assert not missing


def test_folders_have_short_readmes() -> None:
    """At most 40 lines for a folder of code; the architecture's page has at most 200."""
    long = [
        str(path.relative_to(ROOT))
        for path in _documents()
        if path.name == "README.md"
        and path.relative_to(ROOT).parts[0] in ("shared", "replication", "workers", "deploy")
        and len(path.read_text().splitlines()) > 40
    ]
    assert not long
    assert len((ROOT / "ARCHITECTURE.md").read_text().splitlines()) <= 200
