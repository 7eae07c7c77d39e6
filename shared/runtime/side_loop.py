"""A second event loop, in a thread of its own. It runs while the process's main loop is busy.

Only work that must not share the main loop's fate belongs here, such as the heartbeat: Python runs one thread at a
time, so a second loop makes nothing faster. A single call into C code that keeps the interpreter's lock stops both.
"""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_JOIN_LIMIT_S = 2.0


class SideLoop:
    """The loop and its thread. Made on the main loop, and started at once."""

    def __init__(self, name: str) -> None:
        self.main_loop = asyncio.get_running_loop()
        self.main_thread_id = threading.get_ident()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on this loop, and return its result to the main loop. Cancelling the caller cancels it."""
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

    def call(self, function: Callable[[], Any]) -> None:
        """Call a function on this loop, from the main loop. After `close` this does nothing."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function)

    def call_back(self, function: Callable[[], Any]) -> None:
        """Call a function on the main loop, from this loop. After the main loop's end this does nothing."""
        with suppress(RuntimeError):
            self.main_loop.call_soon_threadsafe(function)

    async def close(self) -> None:
        """End what runs here, and the thread."""
        self.call(self._loop.stop)
        await self.main_loop.run_in_executor(None, self._thread.join, _JOIN_LIMIT_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        finally:
            self._loop.close()
