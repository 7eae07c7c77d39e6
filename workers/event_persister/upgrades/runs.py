"""One run at a time of what may be asked for again and again: whoever asks meanwhile shares it, and its answer."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from shared.core.errors import Unavailable

T = TypeVar("T")
_MAX_RUNS = 1000  # under way in this process


class UpgradeRuns:
    def __init__(self) -> None:
        self._runs: dict[str, asyncio.Task[Any]] = {}

    async def run(self, key: str, begin: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Return what the run of this key returns, or raise what it raises; begin one where none is under way.

        The run goes on when the one who asked goes away. Raises Unavailable when too many are under way.
        """
        task = self._runs.get(key)
        if task is None:
            if len(self._runs) >= _MAX_RUNS:
                raise Unavailable("Too many upgrades are under way")
            task = self._runs[key] = asyncio.get_running_loop().create_task(begin())
            task.add_done_callback(lambda done: self._ended(key, done))
        result: T = await asyncio.shield(task)
        return result

    async def finish(self) -> None:
        """Wait until all are done."""
        while self._runs:
            await asyncio.wait(list(self._runs.values()))

    def _ended(self, key: str, task: asyncio.Task[Any]) -> None:
        del self._runs[key]
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more
