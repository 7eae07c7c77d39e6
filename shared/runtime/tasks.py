"""Background tasks of a process. They are named, counted and never orphaned; a failed one is logged and restarted."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

logger = logging.getLogger(__name__)

_RESTART_DELAY_S = 0.5


class TaskGroup:
    """The tasks of a process. `close` ends them all."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Run one coroutine to its end. An error is logged, so the caller need not wait for it."""
        task = asyncio.get_running_loop().create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def forever(self, run: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[Any]:
        """Run `run` in an endless loop, as a driver's outermost loop. An error is logged before the next run."""

        async def loop() -> None:
            while True:
                try:
                    await run()
                except asyncio.CancelledError:
                    raise
                except Exception:
                    logger.exception("%s failed and restarts in %.1f s", name, _RESTART_DELAY_S)
                await asyncio.sleep(_RESTART_DELAY_S)

        return self.spawn(loop(), name)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Cancel all tasks and wait for their end, at most `timeout_s`."""
        tasks = [task for task in self._tasks if not task.done()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)

    def __len__(self) -> int:
        return len(self._tasks)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("Task %s failed", task.get_name(), exc_info=error)
