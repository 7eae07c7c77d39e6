"""`tests/duties.tsv`: each duty of a server in the spec, with the tests that check it or the reason for having none.

Columns:

    id        the duty's id
    status    "done", "not applicable" or "later issue"
    evidence  tests as path::name, separated by spaces, or the reason
    note      our reading of the duty, if it differs from its line

All duties of the groups below must be listed. This is checked if the specification's data is beside this checkout.
"""

import ast
import csv
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_SPEC = ROOT.parent / "shared" / "spec" / "server_duties.tsv"
_STATUSES = ("done", "not applicable", "later issue")
#: Groups of duties whose issue is done.
_GROUPS = frozenset(
    {
        "account-data",
        "device",
        "directory",
        "keys/e2ee",
        "membership",
        "presence",
        "profile",
        "push",
        "room-read",
        "room-write",
        "search",
        "spaces",
        "sync",
        "tags",
        "threads/relations",
        "to-device",
        "typing/receipts",
    }
)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


ROWS = _rows(ROOT / "tests" / "duties.tsv")


@cache
def _tests_in(path: str) -> frozenset[str]:
    """Return the names of the tests in a file; empty if there is no such file."""
    file = ROOT / path
    if not file.is_file():
        return frozenset()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["id"])
def test_each_duty_has_existing_tests_or_a_reason(row: dict[str, str]) -> None:
    assert row["status"] in _STATUSES
    evidence = row["evidence"]
    if row["status"] != "done":
        assert len(evidence.split()) > 1, "a reason is a few words"
        return
    named = [name.partition("::") for name in evidence.split()]
    missing = [path + "::" + test for path, _, test in named if test not in _tests_in(path)]
    assert named and not missing, f"no such test: {missing}"


def test_each_duty_is_listed_once() -> None:
    ids = [row["id"] for row in ROWS]
    assert ids == sorted(set(ids))
    if not _SPEC.exists():
        return
    spec = {row["id"]: row for row in _rows(_SPEC)}
    assert set(ids) <= spec.keys()
    wanted = {duty for duty, row in spec.items() if row["api_group"] in _GROUPS}
    assert not wanted - set(ids), "duties without a line"
