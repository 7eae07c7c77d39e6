"""Background tasks of a process. They are named, counted and never orphaned; a failed one is logged and restarted."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from shared.core.errors import Fenced, Unavailable

logger = logging.getLogger(__name__)

_RESTART_DELAY_S = 0.5
#: An outage is over when no task has met it for so long. The next one is logged again.
_OUTAGE_ENDS_AFTER_S = 10.0


class TaskGroup:
    """The tasks that a process owns; `close` ends them all.

    A failure is logged with its traceback. Unavailability (the database is down, the machine stalled) is no bug and
    reaches many tasks at the same time, so each outage is one line.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._unavailable_at_s: float | None = None

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
                except Exception as error:
                    self._failed(name, error, f"it restarts in {_RESTART_DELAY_S:g} s")
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
            self._failed(task.get_name(), error, "it ends")

    def _failed(self, name: str, error: BaseException, then: str) -> None:
        if isinstance(error, Fenced):
            return  # logged where the lease was lost
        if not isinstance(error, Unavailable):
            logger.error("%s failed; %s", name, then, exc_info=error)
            return
        now_s = time.monotonic()
        if self._unavailable_at_s is None or now_s - self._unavailable_at_s >= _OUTAGE_ENDS_AFTER_S:
            logger.warning("%s: %s. Other work that meets this outage is not logged", name, error)
        self._unavailable_at_s = now_s
