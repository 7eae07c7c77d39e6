"""Fixtures live in plugins named after what they bring."""

pytest_plugins = ["tests.fix_servers", "tests.fix_fleet", "tests.fix_watched_fleets", "tests.fix_js_clients"]
