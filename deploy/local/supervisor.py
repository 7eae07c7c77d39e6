"""Keeps the processes of a local fleet alive, and ends them in order.

It has no event loop, no threads and no connections, because workers are forked from it. A worker that ends is
fenced in the database at once (a short-lived child does it), so that its slots need not wait for its
heartbeat to run out; it starts again when that is done.
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

#: Longest that fencing a dead worker may hold up its restart.
_FENCE_LIMIT_S = 5.0
#: How often children are looked at when no signal tells of them, and logs are read.
_LOOK_EVERY_S = 0.25

Say = Callable[[str], None]


class Supervisor:
    """Children are started by the caller in the order it likes, kept alive by it, ended by it.

    fence: tells the database that the named process is dead; runs in a child of its own. say: one line for
    people. changed: called after any process began or ended. close_in_children: descriptors that children
    must not keep.
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
        """From now on SIGINT, SIGTERM and SIGHUP ask for an orderly end; a second one for a quick end.

        SIGHUP (the terminal is gone) counts unless we were started with nohup.
        """
        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
            numbers.append(signal.SIGHUP)
        for number in numbers:
            signal.signal(number, self._on_stop)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)  # wakes the select below
        signal.set_wakeup_fd(self._wakeup_in.fileno(), warn_on_full_buffer=False)

    def start(self, child: Child) -> None:
        """Start a child and keep it from now on."""
        self._echo.follow(child.log)
        self._children.append(child)
        self._begin(child)

    def adopt(self, child: Child, handle: Handle, address: str) -> None:
        """Keep a process that an earlier supervisor had started, from now on as one of our own."""
        self._echo.follow(child.log)
        self._children.append(child)
        child.handle, child.address = handle, address
        self._changed()

    def records(self) -> tuple[ProcessRecord, ...]:
        """Return the processes that run now, the supervisor first."""
        host = socket.gethostname()
        own = ProcessRecord("supervisor", "supervisor", os.getpid(), start_ticks(os.getpid()) or 0, host, "", "")
        found = [own]
        for child in self._children:
            ticks = None if child.handle is None else start_ticks(child.handle.pid)
            if child.handle is not None and ticks is not None:
                record = (child.name, child.type, child.handle.pid, ticks, host, child.address, str(child.log))
                found.append(ProcessRecord(*record))
        return tuple(found)

    def wait(self, seconds: float) -> None:
        """Sleep, but wake for a signal."""
        select.select([self._wakeup], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            self._wakeup.recv(4096)

    def wait_until(self, condition: Callable[[], bool], limit_s: float, what: str) -> bool:
        """Look after the children until the condition holds; return False when asked to stop before.

        Raises CannotRunHere when it does not hold within `limit_s`. what: names the condition in the message.
        """
        end = time.monotonic() + limit_s
        while not self.stop_requests:
            if condition():
                return True
            if time.monotonic() > end:
                raise CannotRunHere(f"{what}: not within {limit_s:g} s. The logs tell more.")
            self.wait(0.05)
            self.look_after_children()
        return False

    def supervise(self) -> None:
        """Keep all children alive until asked to stop."""
        while not self.stop_requests:
            self.wait(_LOOK_EVERY_S)
            self.look_after_children()

    def look_after_children(self) -> None:
        """Notice who ended, fence and restart what is due, show what the logs say."""
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

        order: who belongs to a group, and how many seconds its children may take before they are killed.
        """
        for belongs, limit_s in order:
            group = [child for child in self._children if belongs(child)]
            for child in group:
                _send(child, child.stop_signal)
            self._wait_for_end(group, limit_s)
            for child in group:
                if child.handle is not None:
                    self._say(f"{child.name} has not stopped yet and is killed")
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
        # The first restart is immediate: whoever is waiting for this worker's slots waits for nothing else.
        delay_s = restart_delay_s(child.quick_ends - 1 if child.quick_ends else 0)
        child.start_again_at_s = now + delay_s
        lived = f" after {lived_s:.1f} s" if child.started_at_s else ""  # not known of an adopted one
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
            child.fencing.send_signal(signal.SIGKILL)  # the database is away: heartbeats will tell, later
            return False
        child.fencing = None
        return True

    def _wait_for_end(self, group: Sequence[Child], limit_s: float) -> None:
        """Wait until the group has ended, at most `limit_s`; much less once a second stop was asked for."""
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
