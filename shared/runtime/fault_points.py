"""Fault points: instants at which a test can kill or stop a process, as a crash or a stopped machine would.

They are off unless two switches agree: the environment names a file (`SKEP_FAULT_POINTS`), and the configuration says
that this fleet is for tests (`testing.fault_points`). With only one of them the process does not start. With both, a
process that reaches a point reads the file. If the file names this point ("announced kill"), the process removes the
order and carries it out, once. "block" keeps the event loop busy for a minute, in each process that reaches the point,
until the file is removed. Without the switches a point costs one comparison.
"""

import os
import signal
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

VARIABLE = "SKEP_FAULT_POINTS"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}
_BLOCK_S = 60.0
_orders: Path | None = None


def arm(allowed: bool, environment: Mapping[str, str]) -> None:
    """Read the switches, once, at the start of a process. allowed: the setting of the configuration.

    Raises ValueError if only one of them is on.
    """
    global _orders  # noqa: PLW0603 - a crash concerns the whole process
    named = environment.get(VARIABLE)
    if (named is not None) != allowed:
        raise ValueError(f"{VARIABLE} and the setting testing.fault_points belong together, in tests only")
    _orders = Path(named) if named is not None else None


def reach(point: str) -> None:
    """Mark that the process is at this point, and carry out an order for it."""
    if _orders is not None:
        _carry_out(_orders, point)


def _carry_out(orders: Path, point: str) -> None:
    with suppress(FileNotFoundError):
        wanted, _, action = orders.read_text().rpartition(" ")
        if wanted == point and action == "block":
            end_s = time.monotonic() + _BLOCK_S
            while time.monotonic() < end_s and orders.exists():
                pass
        elif wanted == point:
            orders.rename(orders.with_suffix(".done"))  # if several processes are at the point, one gets the order
            os.kill(os.getpid(), _SIGNALS[action])
