"""The supervisor of a local fleet: it restarts processes that end, and stops all of them in order.

Workers are forked from it, so it has no event loop, no threads and no connections. When a worker ends, a short-lived
child fences it in the database at once, so that its slots do not wait for its heartbeat to expire. The worker starts
again after that.
"""

import contextlib
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Sequence
from types import FrameType

from deploy.local.children import (
    SETTLED_AFTER_S,
    UNSEEN,
    Child,
    Handle,
    describe_exit,
    fork_child,
    restart_delay_s,
)
from deploy.local.data_directory import ProcessRecord
from deploy.local.identity import start_ticks
from deploy.local.log_echo import LogEcho
from deploy.local.servers.program import tail_of
from deploy.local.servers.unprivileged import CannotRunHere
from replication.process.draining import DRAINED

#: Time limit for fencing a dead worker, in seconds. Then it starts again anyway.
_FENCE_LIMIT_S = 5.0
#: Time between two looks at children and logs, in seconds, when no signal arrives.
_LOOK_EVERY_S = 0.25

Say = Callable[[str], None]


class Supervisor:
    """Keep children alive. The caller starts them, in its own order.

    say(line): prints one line for people.
    fence(name): records in the database that the named process is dead; runs in a child.
    changed(): called after any process started or ended.
    close_in_children: descriptors that children must not keep.
    """

    def __init__(
        self,
        *,
        say: Say,
        fence: Callable[[str], None],
        changed: Callable[[], None],
        close_in_children: Sequence[int] = (),
    ) -> None:
        self._say = say
        self._fence = fence
        self._changed = changed
        self._children: list[Child] = []
        self._echo = LogEcho()
        self._wakeup, self._wakeup_in = socket.socketpair()
        for end in (self._wakeup, self._wakeup_in):
            end.setblocking(False)
        self.close_in_children = (*close_in_children, self._wakeup.fileno(), self._wakeup_in.fileno())
        self.stop_requests = 0

    def listen_for_signals(self) -> None:
        """Stop in order on SIGINT, SIGTERM or SIGHUP, and quickly on a second one.

        SIGHUP (the terminal is gone) is ignored if we were started with nohup.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the select below
        signal.set_wakeup_fd(self._wakeup_in.fileno(), warn_on_full_buffer=False)

    def start(self, child: Child) -> None:
        """Start a child, and keep it alive from now on."""
        self._echo.follow(child.log)
        self._children.append(child)
        self._begin(child)

    def adopt(self, child: Child, handle: Handle, address: str) -> None:
        """Keep alive a process that an earlier supervisor started."""
        self._echo.follow(child.log)
        self._children.append(child)
        child.handle, child.address = handle, address
        self._changed()

    def records(self) -> tuple[ProcessRecord, ...]:
        """Return the running processes, the supervisor first."""
        host = socket.gethostname()
        found = [
            ProcessRecord(
                name="supervisor",
                type="supervisor",
                pid=os.getpid(),
                start_ticks=start_ticks(os.getpid()) or 0,
                host=host,
                address="",
                log="",
            )
        ]
        for child in self._children:
            ticks = None if child.handle is None else start_ticks(child.handle.pid)
            if child.handle is not None and ticks is not None:
                found.append(
                    ProcessRecord(
                        name=child.name,
                        type=child.type,
                        pid=child.handle.pid,
                        start_ticks=ticks,
                        host=host,
                        address=child.address,
                        log=str(child.log),
                    )
                )
        return tuple(found)

    def wait(self, seconds: float) -> None:
        """Sleep until a signal arrives or the time is over."""
        select.select([self._wakeup], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def wait_until(self, condition: Callable[[], bool], limit_s: float, what: str) -> bool:
        """Look after the children until the condition holds; return False if asked to stop before that.

        Raises CannotRunHere if it does not hold within `limit_s`.

        what: the failure, for the message.
        """
        end = time.monotonic() + limit_s
        while not self.stop_requests:
            if condition():
                return True
            if time.monotonic() > end:
                raise CannotRunHere(f"{what} within {limit_s:g} s. The logs say more.")
            self.wait(0.05)
            self.look_after_children()
        return False

    def supervise(self) -> None:
        """Keep all children alive until asked to stop."""
        while not self.stop_requests:
            self.wait(_LOOK_EVERY_S)
            self.look_after_children()

    def look_after_children(self) -> None:
        """Handle children that ended, restart those that are due, and show notable lines of the logs."""
        now = time.monotonic()
        for child in self._children:
            if child.handle is not None and (code := child.handle.poll()) is not None:
                self._ended(child, code, now)
            if child.handle is None and self._is_fenced(child, now) and now >= child.start_again_at_s:
                self._begin(child)
                self._say(f"{child.name} started again, pid {child.handle.pid if child.handle else '?'}")
        self._children = [child for child in self._children if not child.drained]
        for line in self._echo.new_lines():
            self._say(line)

    def stop_all(self, order: Sequence[tuple[Callable[[Child], bool], float]]) -> None:
        """End every child, group by group.

        order: the test for membership in a group, and the seconds that its children have before they are killed.
        """
        for belongs, limit_s in order:
            group = [child for child in self._children if belongs(child)]
            for child in group:
                _send(child, child.stop_signal)
            self._wait_for_end(group, limit_s)
            for child in group:
                if child.handle is not None:
                    self._say(f"{child.name} did not stop in time and is killed")
                    _send(child, child.kill_signal)
            self._wait_for_end(group, 1.0)
            for child in group:
                _send(child, signal.SIGKILL)
            self._wait_for_end(group, 1.0)
        for line in self._echo.new_lines():
            self._say(line)
        self._changed()

    def _begin(self, child: Child) -> None:
        child.handle, child.address = child.start()
        child.started_at_s = time.monotonic()
        self._changed()

    def _ended(self, child: Child, code: int, now: float) -> None:
        child.handle = None
        if child.is_worker and code == DRAINED:
            child.drained = True
            child.start_again_at_s = math.inf
            self._say(f"{child.name} was drained by an operator and has ended; the next `skep up` starts it again")
            self._changed()
            return
        lived_s = now - child.started_at_s
        child.quick_ends = 0 if lived_s > SETTLED_AFTER_S else child.quick_ends + 1
        # The first restart is immediate, since requests wait for this worker's slots.
        delay_s = restart_delay_s(child.quick_ends - 1 if child.quick_ends else 0)
        child.start_again_at_s = now + delay_s
        lived = f" after {lived_s:.1f} s" if child.started_at_s else ""  # unknown for an adopted process
        when = "at once" if delay_s == 0 else f"in {delay_s:g} s"
        self._say(f"{child.name} {describe_exit(code)}{lived}; it starts again {when}")
        if code > 0 and code != UNSEEN and child.quick_ends:
            self._say(f"the end of {child.log}:\n{tail_of(child.log, 8)}")
        if child.is_worker:
            child.fencing = fork_child(lambda: _fence(self._fence, child.name), child.log, self.close_in_children)
            child.fencing_until_s = now + _FENCE_LIMIT_S
        self._changed()

    def _is_fenced(self, child: Child, now: float) -> bool:
        if child.fencing is None:
            return True
        if child.fencing.poll() is None:
            if now < child.fencing_until_s:
                return False
            child.fencing.send_signal(signal.SIGKILL)  # the database is down: the heartbeat expires later
            return False
        child.fencing = None
        return True

    def _wait_for_end(self, group: Sequence[Child], limit_s: float) -> None:
        """Wait up to `limit_s` until the group has ended; much less after a second request to stop."""
        began = time.monotonic()
        while True:
            for child in group:
                if child.handle is not None and child.handle.poll() is not None:
                    child.handle = None
            spent_s = time.monotonic() - began
            rest_s = (limit_s if self.stop_requests < 2 else min(limit_s, 0.3)) - spent_s
            if rest_s <= 0 or all(child.handle is None for child in group):
                return
            self.wait(min(rest_s, 0.1))

    def _on_stop(self, _number: int, _frame: FrameType | None) -> None:
        self.stop_requests += 1


def _fence(fence: Callable[[str], None], name: str) -> int:
    fence(name)
    return 0


def _send(child: Child, number: int) -> None:
    if child.handle is not None:
        with contextlib.suppress(ProcessLookupError):
            child.handle.send_signal(number)
