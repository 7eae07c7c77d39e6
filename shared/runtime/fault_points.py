"""Instants of a process at which a test lets it end or stand still, as a crash or a stopped machine would.

Off unless two keys fit: the environment names a file (`SKEP_FAULT_POINTS`), and the configuration says that this
fleet is for tests (`testing.fault_points`); one key without the other keeps the process from starting. Then a
point that is reached reads the file; when it names this point ("announced kill"), the order is taken out of it and
carried out, once. Without the keys a point costs one comparison.
"""

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "SKEP_FAULT_POINTS"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_orders: Path | None = None


def arm(allowed: bool, environment: Mapping[str, str]) -> None:
    """Read the keys, once, at the start of a process. allowed: what the configuration says.

    Raises ValueError when only one of them is there.
    """
    global _orders  # noqa: PLW0603 - of the whole process, as a crash is
    named = environment.get(VARIABLE)
    if (named is not None) != allowed:
        raise ValueError(f"{VARIABLE} and the setting testing.fault_points belong together, in tests only")
    _orders = Path(named) if named is not None else None


def reach(point: str) -> None:
    """Say that the process is at this point."""
    if _orders is not None:
        _carry_out(_orders, point)


def _carry_out(orders: Path, point: str) -> None:
    with suppress(FileNotFoundError):
        wanted, _, action = orders.read_text().rpartition(" ")
        if wanted == point:
            orders.rename(orders.with_suffix(".done"))  # of several processes at the point, one gets the order
            os.kill(os.getpid(), _SIGNALS[action])
