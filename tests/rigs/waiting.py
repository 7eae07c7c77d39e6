"""Waiting for what tells nobody that it has come: the condition is asked again and again, up to a limit."""

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

#: Far longer than anything takes, so that a busy machine fails no test.
LIMIT_S = 60.0
_EVERY_S = 0.02


def wait_until(
    condition: Callable[[], Any], otherwise: object = "it never came to be", *, limit_s: float = LIMIT_S
) -> Any:
    """Return the condition's first value that is true. Fail with `otherwise` at the limit; a function is called."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        _check_time(end, otherwise)
        time.sleep(_EVERY_S)
    return found


async def until(
    condition: Callable[[], Any], otherwise: object = "it never came to be", *, limit_s: float = LIMIT_S
) -> Any:
    """Do the same without blocking the loop. The condition may be a coroutine function."""
    end = time.monotonic() + limit_s
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return found
        _check_time(end, otherwise)
        await asyncio.sleep(_EVERY_S)


def _check_time(end: float, otherwise: object) -> None:
    if time.monotonic() > end:
        raise AssertionError(otherwise() if callable(otherwise) else otherwise)
