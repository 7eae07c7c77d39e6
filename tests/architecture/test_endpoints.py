"""Endpoints are data: every one is served by exactly one worker, and none that the spec has is claimed wrongly."""

import csv
import re
from pathlib import Path

import pytest

from deploy.command.processes.worker_process import WORKER_TYPES
from deploy.endpoint_table import all_endpoints, all_pools
from shared.http.endpoint import Auth, paths_of
from shared.http.endpoint_check import check_endpoints

SPEC = Path(__file__).parents[3] / "shared" / "spec" / "endpoints.tsv"


def test_the_table_is_sound() -> None:
    check_endpoints(all_endpoints(), all_pools())


def test_every_pool_belongs_to_a_worker_type() -> None:
    assert {pool.worker for pool in all_pools()} <= set(WORKER_TYPES)


def test_names_are_unique() -> None:
    names = [endpoint.name for endpoint in all_endpoints()]
    assert len(names) == len(set(names))


def test_internal_endpoints_are_where_haproxy_lets_nobody() -> None:
    for endpoint in all_endpoints():
        assert (endpoint.auth is Auth.INTERNAL) == all(path.startswith("/_skep/") for path in paths_of(endpoint))


def test_our_endpoints_are_the_specs() -> None:
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
            assert endpoint.auth is Auth.ACCESS_TOKEN, f"{endpoint.name}: the spec demands a token"
    assert not unknown, f"not in the spec's table: {unknown}"


def _shape(path: str) -> str:
    """The path with its parameters' names left out."""
    return re.sub(r"\{[^}]*\}", "{}", path).rstrip("/")
