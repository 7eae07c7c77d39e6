"""Import the workers' modules before the fork, so that workers share them: each takes 20 MB instead of 45."""

import importlib
import sys
from collections.abc import Sequence


class ReactorImported(RuntimeError):
    """A module imported the reactor, which each worker must create after the fork."""


def preload(modules: Sequence[str]) -> None:
    """Import the modules. Raises ReactorImported, which names the first one that imports the reactor.

    txredisapi and prometheus_client.twisted do so. Import them in the running worker only.
    """
    for name in modules:
        importlib.import_module(name)
        if "twisted.internet.reactor" in sys.modules:
            raise ReactorImported(f"{name} imports twisted.internet.reactor; it must do so in the worker only")
