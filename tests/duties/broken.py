"""A pytest plugin that runs each test once for each of its breaks.

SKEP_BREAKS_DUTIES: the duties to break, separated by spaces.
SKEP_BREAKS_RESULT: the file that gets one JSON object: duty -> [True if the test failed, the end of its report].
"""

import importlib
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FunctionType

import pytest
from _pytest.runner import runtestprotocol

from shared.storage.engine.statements import Statement
from tests.duties.breaks import BREAKS, Break
from tests.duties.other_breaks import OTHER_BREAKS

DUTIES, RESULT = "SKEP_BREAKS_DUTIES", "SKEP_BREAKS_RESULT"
_OURS = ("shared.", "replication.", "workers.", "deploy.")
_wanted = os.environ[DUTIES].split() if DUTIES in os.environ else []
_breaks = [each for each in (*BREAKS, *OTHER_BREAKS) if each.duty in _wanted]
_results: dict[str, tuple[bool, str]] = {each.duty: (False, "the test did not run") for each in _breaks}


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool:
    for each in _breaks:
        if each.test != item.nodeid.partition("[")[0]:
            continue
        try:
            with applied(each):
                reports = runtestprotocol(item, nextitem=nextitem, log=False)
        except (ImportError, AttributeError, KeyError) as error:
            _results[each.duty] = (False, f"there is no {each.symbol}: {error!r}")
            continue
        failed = any(report.when == "call" and report.failed for report in reports)
        told = "".join(report.longreprtext[-2000:] for report in reports if report.failed)
        before = _results[each.duty]
        if failed or not before[0]:
            _results[each.duty] = (failed, told)
    return True


def pytest_sessionfinish(session: pytest.Session) -> None:
    Path(os.environ[RESULT]).write_text(json.dumps(_results))


@contextmanager
def applied(broken: Break) -> Iterator[None]:
    """Replace the symbol; a function or statement is replaced wherever our modules have imported it."""
    module_name, _, name = broken.symbol.partition(":")
    owner = importlib.import_module(module_name)
    *path, name = name.split(".")
    for part in path:
        owner = getattr(owner, part)
    present = owner.__dict__[name]
    with pytest.MonkeyPatch.context() as patch:
        changed = broken.change(present)
        patch.setattr(owner, name, changed)
        if isinstance(present, FunctionType | Statement) and not path:
            for module in [each for key, each in sys.modules.items() if key.startswith((*_OURS, "tests."))]:
                for other, value in list(vars(module).items()):
                    if value is present:
                        patch.setattr(module, other, changed)
        yield
