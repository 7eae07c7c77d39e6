"""The installed JavaScript client is the pinned version. An old Node would silently install an old client."""

import json
import subprocess
import warnings
from pathlib import Path

from tests.fix_js_clients import NODE, PROGRAMS, run_npm

OLDEST_NODE = 22


def test_node_is_recent_enough() -> None:
    version = subprocess.run([NODE, "--version"], check=True, text=True, stdout=subprocess.PIPE).stdout
    assert int(version.lstrip("v").split(".")[0]) >= OLDEST_NODE


def test_installed_client_is_the_pinned_version(js_clients: Path) -> None:
    pinned = json.loads((PROGRAMS / "package.json").read_text())["dependencies"]["matrix-js-sdk"]
    assert pinned[0].isdigit(), f"{pinned} is a range, not a version"
    installed = json.loads((js_clients / "node_modules" / "matrix-js-sdk" / "package.json").read_text())["version"]
    assert installed == pinned


def test_warn_when_a_newer_client_is_published(js_clients: Path) -> None:
    """Only a warning: a release of another project must not break our build."""
    pinned = json.loads((PROGRAMS / "package.json").read_text())["dependencies"]["matrix-js-sdk"]
    try:
        newest = run_npm("view", "matrix-js-sdk", "version", directory=js_clients, limit_s=30).strip()
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
        return  # no registry here
    if newest != pinned:
        warnings.warn(f"matrix-js-sdk {newest} is published; {pinned} is pinned", stacklevel=1)
