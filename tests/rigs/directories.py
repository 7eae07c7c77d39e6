"""Directories for servers of tests: short, in memory where there is room, and open to the user that PostgreSQL runs as.

pytest's own directories are neither short nor open to other users. In memory a cluster is made ten times as fast.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from deploy.local.identity import start_ticks

_MEMORY = Path("/dev/shm")
#: Less than this, and the directories are made on disk.
_MIN_FREE_BYTES = 2 << 30
_PREFIX = "skep-test"


@contextlib.contextmanager
def server_directory(name: str) -> Iterator[Path]:
    """Make a directory; remove it, with all that is in it, at the end of the block."""
    # The path of a unix socket is at most 107 bytes long.
    path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-{name}-", dir=_parent()))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned() -> None:
    """Remove the directories of test processes that were killed."""
    for path in (Path(tempfile.gettempdir()), _MEMORY):
        for directory in path.glob(f"{_PREFIX}-*"):
            pid = directory.name.split("-")[2]
            if pid.isdigit() and start_ticks(int(pid)) is None:
                shutil.rmtree(directory, ignore_errors=True)


def _parent() -> Path | None:
    """Return None for the usual place of temporary files."""
    if "TMPDIR" in os.environ or not os.access(_MEMORY, os.W_OK | os.X_OK):
        return None
    return _MEMORY if shutil.disk_usage(_MEMORY).free >= _MIN_FREE_BYTES else None
