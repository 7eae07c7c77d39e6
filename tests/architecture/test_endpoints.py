"""The declared endpoints: each is served by one worker type and agrees with the spec's table."""

import csv
import re
from pathlib import Path

import pytest

from deploy.command.processes.worker_process import WORKER_TYPES
from deploy.endpoint_table import all_endpoints, all_pools
from shared.http.endpoint import Auth, paths_of
from shared.http.endpoint_check import check_endpoints

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "endpoints.tsv"


def test_endpoint_table_is_consistent() -> None:
    check_endpoints(all_endpoints(), all_pools())


def test_every_pool_belongs_to_a_worker_type() -> None:
    assert {pool.worker for pool in all_pools()} <= set(WORKER_TYPES)


def test_names_are_unique() -> None:
    names = [endpoint.name for endpoint in all_endpoints()]
    assert len(names) == len(set(names))


def test_internal_endpoints_have_only_internal_paths() -> None:
    for endpoint in all_endpoints():
        assert (endpoint.auth is Auth.INTERNAL) == all(path.startswith("/_skep/") for path in paths_of(endpoint))


def test_declared_endpoints_exist_in_the_spec() -> None:
    if not SPEC.exists():
        pytest.skip("the spec's data (../shared/spec) is not beside this checkout")
    with SPEC.open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    spec = {(row["method"], _shape(row["path"])): row for row in rows}
    unknown = []
    for endpoint in all_endpoints():
        path = paths_of(endpoint)[0]
        if path.startswith(("/_skep/", "/_synapse/")) or endpoint.spec.startswith(("MSC", "deployed: ")):
            continue
        row = spec.get((endpoint.method, _shape(path)))
        if row is None:
            unknown.append(f"{endpoint.method} {path}")
        elif row["auth"] == "accessToken":
            assert endpoint.auth is Auth.ACCESS_TOKEN, f"{endpoint.name}: the spec requires a token"
    assert not unknown, f"not in the spec's table: {unknown}"


def _shape(path: str) -> str:
    """Return the path without the names of its parameters."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")
