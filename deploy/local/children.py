"""Child processes of the supervisor: forked workers, and what a supervisor needs to know of any child."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from deploy.local.identity import Identity

#: A child that lived longer than this, in seconds, ended for a reason of its own, not because it cannot
# start.
SETTLED_AFTER_S = 20.0
_LONGEST_DELAY_S = 10.0


class Handle(Protocol):
    """What `subprocess.Popen` and `ForkedProcess` have in common."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs. Never blocks."""

    def send_signal(self, sig: int) -> None:
        """Send a signal; nothing happens when it has ended."""


class ForkedProcess:
    """A child made by `fork_child`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def poll(self) -> int | None:
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
        return self._code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:  # not reaped yet, so the pid is still its own
            os.kill(self.pid, sig)


#: Exit code of an adopted process: nobody but its parent learns the true one.
UNSEEN = 256


class AdoptedProcess:
    """A process that an earlier supervisor, which is gone, had started."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self.pid = identity.pid

    def poll(self) -> int | None:
        return None if self._identity.is_alive() else UNSEEN

    def send_signal(self, sig: int) -> None:
        if self._identity.is_alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)


def fork_child(run: Callable[[], int], log: Path, close: tuple[int, ...] = ()) -> ForkedProcess:
    """Fork a child that calls `run` and exits with the code it returns.

    The caller has no threads and no loop.

    The child has a process group of its own, so that Ctrl-C reaches the parent only; its output is added to
    `log`. close: descriptors of the parent that the child must not keep, such as a lock.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    gc.disable()  # a collection between freeze and fork would touch, and so copy, every page
    gc.freeze()
    pid = os.fork()
    if pid:
        gc.enable()
        return ForkedProcess(pid)
    code = 70
    try:
        _become_a_child(log, close)
        code = run()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _become_a_child(log: Path, close: tuple[int, ...]) -> None:
    os.setpgid(0, 0)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for descriptor in close:
        os.close(descriptor)
    empty = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(empty)
    os.close(output)
    gc.enable()


def restart_delay_s(quick_ends: int) -> float:
    """Return how long to wait before the next start.

    quick_ends: how often in a row it ended soon after a start.
    """
    return 0.0 if quick_ends == 0 else min(_LONGEST_DELAY_S, 0.5 * 2.0 ** (quick_ends - 1))


def describe_exit(code: int) -> str:
    """Say how a process ended."""
    if code == UNSEEN:
        return "ended"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@dataclass(slots=True)
class Child:
    """One process that the supervisor keeps alive, through all its incarnations.

    start: begins a new incarnation and returns it with the address at which it listens.
    handle: the present incarnation; None before the first start and between two.
    is_worker: holds leases, so its end is told to the database.
    drained: an operator ended it for good.
    """

    name: str
    type: str
    log: Path
    start: Callable[[], tuple[Handle, str]]
    is_worker: bool
    stop_signal: int = signal.SIGTERM
    kill_signal: int = signal.SIGKILL
    handle: Handle | None = None
    address: str = ""
    started_at_s: float = 0.0
    quick_ends: int = 0
    start_again_at_s: float = field(default=0.0)
    fencing: ForkedProcess | None = None
    fencing_until_s: float = 0.0
    drained: bool = False


PopenHandle = subprocess.Popen[bytes]
