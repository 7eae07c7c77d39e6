"""One run of an upgrade at a time. Calls that come meanwhile share the run and its result."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shared.core.errors import Unavailable

T = TypeVar("T")
_MAX_RUNS = 1000  # under way in this process


class UpgradeRuns:
    """Runs by key."""

    def __init__(self) -> None:
        self._runs: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return the result of the run of this key, or raise its error. Begin a run if none is under way.

        The run continues if the caller is cancelled. Raises Unavailable if too many are under way.
        """
        task = self._runs.get(key)
        if task is None:
            if len(self._runs) >= _MAX_RUNS:
                raise Unavailable("Too many upgrades are under way. Try again later")
            task = self._runs[key] = asyncio.get_running_loop().create_task(begin())
            task.add_done_callback(lambda done: self._ended(key, done))
        result: T = await asyncio.shield(task)
        return result

    async def finish(self) -> None:
        """Wait until all runs are done."""
        while self._runs:
            await asyncio.wait(list(self._runs.values()))

    def _ended(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._runs[key]
        if not task.cancelled():
            task.exception()  # perhaps no caller is left to read it
