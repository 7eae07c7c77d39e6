"""Imports what workers import, so that forked workers share it: a further one costs 20 MB instead of 45."""

import importlib
import sys
from collections.abc import Sequence


class ReactorImported(RuntimeError):
    """A module imported the reactor, which each worker must make for itself after the fork."""


def preload(modules: Sequence[str]) -> None:
    """Import the modules. Raises ReactorImported, naming the first one that brought the reactor along.

    txredisapi and prometheus_client.twisted do that: whoever needs them imports them in the running worker.
    """
    for name in modules:
        importlib.import_module(name)
        if "twisted.internet.reactor" in sys.modules:
            raise ReactorImported(f"{name} imports twisted.internet.reactor; it must do so in the worker only")
