"""Fixtures live in plugins named after what they bring."""

import pytest

from tests.rigs.directories import remove_abandoned

pytest_plugins = ["tests.fix_servers", "tests.fix_fleet", "tests.fix_watched_fleets", "tests.fix_js_clients"]


def pytest_sessionstart(session: pytest.Session) -> None:
    remove_abandoned()
