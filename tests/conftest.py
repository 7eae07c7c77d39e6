"""The order of the tests, and which of them run in one process. The fixtures live in plugins named after them."""

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.rigs.directories import remove_abandoned

pytest_plugins = [
    "tests.fix_servers",
    "tests.fix_fleet",
    "tests.fix_special_fleets",
    "tests.fix_js_clients",
    "tests.fix_patience",
]

_SHARED_FLEETS = ("fleet", "watched_fleet", "limited_fleet", "restless_fleet", "experimental_fleet")
#: Folders whose tests need a fleet, or take as long. `make test-fast` leaves them out.
_FLEETS = frozenset({"cases", "duties", "faults", "fleet", "hostile", "model", "simulation", "spec_walk"})

# Hypothesis measures the wall clock otherwise, and a busy machine fails.
settings.register_profile("skep", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("skep")


def pytest_sessionstart(session: pytest.Session) -> None:
    remove_abandoned()


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that share a fleet or a database one after the other, in one process.

    The tests of fleets come first, since they run long; the short ones then keep all processes busy until the end.
    """
    ranks: dict[str, tuple[bool, int]] = {}
    order: dict[pytest.Item, tuple[bool, int]] = {}
    for number, item in enumerate(items):
        group = _group_of(item)
        if Path(item.nodeid).parts[1] in _FLEETS:
            item.add_marker("fleet")
        is_short = item.get_closest_marker("fleet") is None
        if group is None:
            order[item] = (is_short, len(items))
        else:
            item.add_marker(pytest.mark.xdist_group(group))
            order[item] = ranks.setdefault(group, (is_short, number))
    items.sort(key=order.__getitem__)


def _group_of(item: pytest.Item) -> str | None:
    """Return a name for what the test shares with others; None if it shares nothing that is made for them."""
    for name in _SHARED_FLEETS:
        if name in item.fixturenames:  # type: ignore[attr-defined]
            return name
    scopes = set(_scopes_of_our_fixtures(item))
    if "package" in scopes:
        return str(Path(item.nodeid).parent)
    return item.nodeid.split("::")[0] if "module" in scopes else None


def _scopes_of_our_fixtures(item: pytest.Item) -> Iterable[str]:
    for *_, definition in item._fixtureinfo.name2fixturedefs.values():  # type: ignore[attr-defined]
        if definition.func.__module__.startswith("tests."):
            yield definition.scope
