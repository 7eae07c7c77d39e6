"""The log files of a local fleet. They have user ids and addresses: only the operator and their group may read them."""

import os
import stat
from pathlib import Path

_MODE = 0o640


def open_log(path: Path) -> int:
    """Open a log for appending and return its descriptor. A log of an earlier release loses the rights of others."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, _MODE)
    mode = stat.S_IMODE(os.fstat(descriptor).st_mode)
    if mode & ~_MODE:
        os.fchmod(descriptor, mode & _MODE)
    return descriptor
