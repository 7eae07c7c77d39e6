"""Notices when the main event loop is blocked: by what, for how long, and whether for good.

It runs on a side loop and pings the main loop four times a second. Without an answer it looks at the stack of the main
loop's thread until the answer comes. A responsive loop pays for the pings only.
"""

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from types import FrameType
from typing import Generic, TypeVar

from shared.runtime.side_loop import SideLoop

T = TypeVar("T")

#: No work may block the loop for longer. Architecture page, section 9.
PROMISE_S = 0.05
#: Work that blocks the loop for longer is noted for a successor, in case the process dies of it.
LONG_S = 0.5
_PAUSE_S = 0.2
_LOOK_EVERY_S = 0.025
#: A look that comes later than this was delayed itself: the whole process was stopped, or got no CPU.
_LONGEST_STEP_S = 0.25
_FRAMES = 20


@dataclass(slots=True)
class Stall(Generic[T]):
    """A time in which the loop did not answer.

    subject: what the loop works on now, such as a request. None if that is unknown.
    subject_s: the time for which it has worked on that.
    main_subject: what it has worked on longest.
    stack: the innermost calls of the loop's thread when it was first seen blocked, or after LONG_S.
    blocked_s: the duration so far, without times in which the whole process stood still.
    worked_s: the CPU time that the loop's thread used.
    """

    subject: T | None = None
    subject_s: float = 0.0
    main_subject: T | None = None
    stack: str = ""
    blocked_s: float = 0.0
    worked_s: float = 0.0
    _longest_s: float = field(default=-1.0)

    @property
    def is_work(self) -> bool:
        """True if the loop's thread was at work. False if it waited, or the machine had no CPU for it."""
        return self.worked_s > self.blocked_s / 2

    def see(self, subject: T | None, step_s: float) -> None:
        """Note what the loop works on now."""
        self.blocked_s += step_s
        self.subject_s = self.subject_s + step_s if subject is self.subject else 0.0
        self.subject = subject
        if self.subject_s > self._longest_s:
            self.main_subject, self._longest_s = subject, self.subject_s


class LoopWatch(Generic[T]):
    """Watches the main loop of a side loop.

    subject_of: returns what the loop works on, from the innermost frame of its thread.
    on_long: the loop has worked on one subject for LONG_S.
    on_end: a stall is over. long: True if `on_long` was called in it.
    on_stuck: the loop did not answer for `stuck_after_s`. The watch ends after that.
    All three run on the side loop.
    """

    def __init__(
        self,
        side: SideLoop,
        subject_of: Callable[[FrameType], T | None],
        *,
        on_long: Callable[[Stall[T]], None],
        on_end: Callable[[Stall[T], bool], None],
        on_stuck: Callable[[Stall[T]], Awaitable[None]],
        stuck_after_s: float,
    ) -> None:
        self._side = side
        self._subject_of = subject_of
        self._on_long = on_long
        self._on_end = on_end
        self._on_stuck = on_stuck
        self._stuck_after_s = stuck_after_s
        self._cpu_clock = time.pthread_getcpuclockid(side.main_thread_id)
        self._answered_s: float | None = None

    async def run(self) -> None:
        """Watch until the loop is stuck, or until cancelled."""
        moves = True
        while moves:
            moves = await self._ping()
            await asyncio.sleep(_PAUSE_S)

    def _answer(self) -> None:
        self._answered_s = time.monotonic()

    def _waiting(self) -> bool:
        return self._answered_s is None

    async def _ping(self) -> bool:
        """Wait for the loop's answer. Return False if it is stuck."""
        self._answered_s = None  # set by the main loop
        asked_s, cpu_s = time.monotonic(), time.clock_gettime(self._cpu_clock)
        self._side.call_back(self._answer)
        await asyncio.sleep(PROMISE_S)
        if not self._waiting():
            return True
        stall = Stall[T](blocked_s=PROMISE_S)
        looked_s, was_long = time.monotonic(), False
        while self._waiting():
            self._look(stall, time.monotonic() - looked_s)
            looked_s = time.monotonic()
            stall.worked_s = time.clock_gettime(self._cpu_clock) - cpu_s
            if stall.blocked_s >= self._stuck_after_s:
                stall.stack = self._stack()
                await self._on_stuck(stall)
                return False
            if not was_long and stall.subject is not None and stall.subject_s >= LONG_S and stall.is_work:
                was_long = True
                self._on_long(stall)
            await asyncio.sleep(_LOOK_EVERY_S)
        stall.blocked_s = min((self._answered_s or asked_s) - asked_s, stall.blocked_s + _LONGEST_STEP_S)
        stall.worked_s = time.clock_gettime(self._cpu_clock) - cpu_s
        self._on_end(stall, was_long)
        return True

    def _look(self, stall: Stall[T], step_s: float) -> None:
        frame = sys._current_frames().get(self._side.main_thread_id)
        if frame is not None:
            was_short = stall.blocked_s < LONG_S
            stall.see(self._subject_of(frame), min(step_s, _LONGEST_STEP_S))
            if not stall.stack or (was_short and stall.blocked_s >= LONG_S):
                stall.stack = self._stack()

    def _stack(self) -> str:
        frame = sys._current_frames().get(self._side.main_thread_id)
        return "".join(traceback.format_list(traceback.extract_stack(frame)[-_FRAMES:]))
