"""An event loop with virtual time. Production code runs on it unchanged, and the same seed gives the same run.

Every callback belongs to a *host* (a simulated process) or to the world. Callbacks of a stopped host wait until it
resumes. Callbacks of a killed host never run.
"""

import asyncio
import contextvars
import heapq
from collections import deque
from collections.abc import Callable
from typing import Any

_STEP_S = 30e-6


class Host:
    """A process as the loop sees it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.killed = False
        self.stopped = False
        self.waiting: list[Handle] = []
        self.context = contextvars.copy_context()
        self.context.run(HOST.set, self)


HOST: contextvars.ContextVar[Host | None] = contextvars.ContextVar("host", default=None)


class Handle:
    """A scheduled callback, with the interface of an asyncio handle. at: the time at which it was due."""

    __slots__ = ("args", "at", "callback", "context", "dead")

    def __init__(self, at: float, callback: Callable[..., Any], args: tuple[Any, ...], context: contextvars.Context):
        self.at = at
        self.callback = callback
        self.args = args
        self.context = context
        self.dead = False

    def cancel(self) -> None:
        self.dead = True

    def cancelled(self) -> bool:
        return self.dead

    def when(self) -> float:
        return self.at


class _Task(asyncio.Task):  # type: ignore[type-arg]
    """A task that hashes by its number. Production code keeps sets of tasks: each run must order them alike."""

    count = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _Task.count += 1
        self._number = _Task.count
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


#: Untyped: the stubs of asyncio want some 40 methods more than code under simulation calls.
_EventLoop: Any = asyncio.AbstractEventLoop


class VirtualLoop(_EventLoop):
    """The event loop.

    errors: the contexts given to the exception handler, such as a failed task that no code awaited.
    """

    def __init__(self) -> None:
        _Task.count = 0
        self._now = 0.0
        self._ready: deque[Handle] = deque()
        self._timers: list[tuple[float, int, Handle]] = []
        self._count = 0
        self._tasks: list[_Task] = []
        self.closing = False
        self._lost: list[Handle] = []  # of killed hosts
        self.stopped = False
        self.steps = 0
        self.errors: list[dict[str, Any]] = []

    # -- the interface of an asyncio loop

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = Handle(self._now, callback, args, contextvars.copy_context() if context is None else context)
        self._ready.append(handle)
        return handle

    def call_later(self, delay: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None) -> Any:
        handle = Handle(when, callback, args, contextvars.copy_context() if context is None else context)
        self._count += 1
        heapq.heappush(self._timers, (when, self._count, handle))
        return handle

    def create_future(self) -> Any:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, context: Any = None) -> Any:
        task = _Task(coro, loop=self, name=name or "", context=context)
        self._tasks.append(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.errors.append(context)

    # -- running

    def stop(self) -> None:
        self.stopped = True

    def run_until(self, end: float) -> None:
        """Run all callbacks up to this time, or until `stop` is called."""
        ready, timers = self._ready, self._timers
        before = asyncio._get_running_loop()
        asyncio._set_running_loop(self)
        try:
            while not self.stopped:
                if not ready:
                    while timers and timers[0][2].dead:
                        heapq.heappop(timers)
                    if not timers or timers[0][0] > end:
                        break
                    self._now = max(self._now, timers[0][0])
                while timers and timers[0][0] <= self._now:
                    ready.append(heapq.heappop(timers)[2])
                self._run(ready.popleft())
                # A step takes time, so that timers fall due between the steps of other work.
                self._now += _STEP_S
        finally:
            asyncio._set_running_loop(before)
        if not self.stopped:
            self._now = max(self._now, end)

    def _run(self, handle: Handle) -> None:
        if handle.dead:
            return
        host = handle.context.get(HOST)
        if host is not None and (host.killed or host.stopped) and not self.closing:
            (self._lost if host.killed else host.waiting).append(handle)
            return
        self.steps += 1
        handle.context.run(handle.callback, *handle.args)

    def resume(self, host: Host) -> None:
        """Resume a stopped host. Its overdue timers all run now."""
        host.stopped = False
        waiting, host.waiting = host.waiting, []
        self._ready.extend(waiting)

    def kill(self, host: Host) -> None:
        """Drop every callback of this host, now and later."""
        host.killed, host.stopped = True, False
        self._lost.extend(host.waiting)
        host.waiting.clear()

    def close(self) -> None:
        """Cancel and finish every task, so that the garbage collector destroys none half-way."""
        self.closing = True
        self._ready.extend(self._lost)
        for _ in range(20):
            self.stopped = False
            left = [task for task in self._tasks if not task.done()]
            if not left:
                break
            for task in left:
                task.cancel()
            self.run_until(self._now + 60.0)
        self._ready.clear()
        self._timers.clear()
        self._tasks.clear()
        self._lost.clear()
