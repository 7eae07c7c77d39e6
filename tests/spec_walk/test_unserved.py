"""Operations of the specification that no process serves: none of the walk's, and only those of known other groups."""

import re

import pytest

from shared.http.endpoint import Auth, Endpoint, paths_of
from tests.fleet.hostile_calls import outside_endpoints
from tests.spec_walk.operations import SPEC, Operation, declared_operations, operations

pytestmark = pytest.mark.skipif(not SPEC.exists(), reason="the specification's data is not beside this checkout")

#: Groups of operations that come with later work. Remove a group when it is complete.
LATER_GROUPS = frozenset(
    {"3pid", "account", "admin", "appservice", "auth", "capabilities", "keys/e2ee", "media", "oidc/oauth", "push"}
)
_PARAMETER = re.compile(r"\{[^}]*\}")


def _served() -> set[tuple[str, str]]:
    return {(each.method, shape) for each in outside_endpoints() for shape in _shapes(each)}


def _shapes(endpoint: Endpoint) -> set[str]:
    """Return the endpoint's paths with each parameter as "{}", with and without an optional one."""
    shapes: set[str] = set()
    for path in paths_of(endpoint):
        shapes.add(_PARAMETER.sub("{}", path))
        if path.endswith("?}"):
            shapes.add(_PARAMETER.sub("{}", path.rpartition("/")[0]))
    return shapes


def _is_served(operation: Operation, served: set[tuple[str, str]]) -> bool:
    shape = _PARAMETER.sub("{}", operation.path)
    return (operation.method, shape) in served or (operation.method, shape.rstrip("/")) in served


def test_every_operation_of_the_walk_is_served() -> None:
    served = _served()
    assert [name for name, each in sorted(operations().items()) if not _is_served(each, served)] == []


def test_unserved_operations_belong_to_later_groups() -> None:
    served = _served()
    unserved = {each.group for each in declared_operations().values() if each.group and not _is_served(each, served)}
    assert unserved <= LATER_GROUPS, unserved - LATER_GROUPS


def test_unserved_operation_is_detected() -> None:
    served = _served()
    one = next(iter(operations().values()))
    assert served and not _is_served(one, {pair for pair in served if pair[1] != _PARAMETER.sub("{}", one.path)})
    assert all(each.auth is not Auth.INTERNAL for each in outside_endpoints())
