"""Child processes of the supervisor: forked workers, adopted processes, and the record of each child."""

import contextlib
import gc
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.local.identity import Identity
from deploy.local.log_file import open_log

#: Seconds. The end of a child that lived longer does not count as a failed start.
SETTLED_AFTER_S = 20.0
_LONGEST_DELAY_S = 10.0


class Handle(Protocol):
    """A process, as `subprocess.Popen` and `ForkedProcess` represent it."""

    pid: int

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal; None while the process runs. Never block."""

    def send_signal(self, sig: int) -> None:
        """Send a signal, if the process has not ended."""


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


#: Exit code of an adopted process. Only its parent could learn the real one.
UNSEEN = 256


class AdoptedProcess:
    """A process that an earlier supervisor started."""

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
    """Fork a child that calls `run` and exits with the returned code. The caller must have no threads and no loop.

    The child has its own process group, so that Ctrl-C reaches only the parent. Its output is appended to `log`.

    close: descriptors of the parent that the child must not keep, such as a lock.
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
    output = open_log(log)
    os.dup2(empty, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(empty)
    os.close(output)
    gc.enable()


def restart_delay_s(quick_ends: int) -> float:
    """Return the delay before the next start.

    quick_ends: the number of ends in a row that came soon after a start.
    """
    return 0.0 if quick_ends == 0 else min(_LONGEST_DELAY_S, 0.5 * 2.0 ** (quick_ends - 1))


def describe_exit(code: int) -> str:
    """Describe the end of a process."""
    if code == UNSEEN:
        return "ended"
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


@dataclass(slots=True, kw_only=True)
class Child:
    """A process that the supervisor keeps alive, through any number of restarts.

    start(): starts a new process and returns it with its address.
    handle: the present process; None before the first start and between two processes.
    is_worker: True if it holds leases, so that its end is recorded in the database.
    drained: True if an operator ended it for good.
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
    start_again_at_s: float = 0.0
    fencing: ForkedProcess | None = None
    fencing_until_s: float = 0.0
    drained: bool = False
