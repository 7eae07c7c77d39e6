"""Programs that `skep up` runs beside its workers, such as PostgreSQL."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deploy.local.log_file import open_log
from deploy.local.servers.unprivileged import CannotRunHere, User


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program and the way to start, check and stop it.

    name: also the name of its log file.
    type: as in `skep status`.
    address: its address, for people.
    is_ready(pid): True if the process with this pid answers; must return within 0.5 s.
    stop_signal: asks it to end.
    kill_signal: sent if it does not end within its limit.
    """

    name: str
    type: str
    argv: tuple[str, ...]
    directory: Path
    address: str
    is_ready: Callable[[int], bool]
    environment: Mapping[str, str]
    user: User | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    kill_signal: signal.Signals = signal.SIGKILL


def start(program: Program, log: Path) -> "subprocess.Popen[bytes]":
    """Start the program with its output appended to `log`.

    It has its own process group, so that Ctrl-C reaches only us.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(open_log(log), "ab") as output:
        return subprocess.Popen(
            program.argv,
            cwd=program.directory,
            env=dict(program.environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            process_group=0,
            user=None if program.user is None else program.user.uid,
            group=None if program.user is None else program.user.gid,
            extra_groups=None if program.user is None else [],
        )


def wait_until_ready(program: Program, process: "subprocess.Popen[bytes]", log: Path, limit_s: float) -> None:
    """Return as soon as the program answers. Raises CannotRunHere if it ends, or does not answer within `limit_s`."""
    end = time.monotonic() + limit_s
    while not program.is_ready(process.pid):
        if process.poll() is not None:
            raise CannotRunHere(f"{program.name} ended with code {process.returncode}:\n{tail_of(log)}")
        if time.monotonic() > end:
            raise CannotRunHere(f"{program.name} does not answer after {limit_s:g} s:\n{tail_of(log)}")
        time.sleep(0.03)


def stop(program: Program, process: "subprocess.Popen[bytes]", limit_s: float) -> None:
    """Ask the program to end, wait up to `limit_s`, then kill it."""
    for number, wait_s in ((program.stop_signal, limit_s), (program.kill_signal, 2.0), (signal.SIGKILL, None)):
        process.send_signal(number)
        try:
            process.wait(wait_s)
        except subprocess.TimeoutExpired:
            continue
        return


@contextmanager
def running(program: Program, log: Path, limit_s: float = 30.0) -> "Iterator[subprocess.Popen[bytes]]":
    """Start the program, wait until it answers, and stop it at the end of the block (for tests)."""
    process = start(program, log)
    try:
        wait_until_ready(program, process, log, limit_s)
        yield process
    finally:
        stop(program, process, 5.0)


def tail_of(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log file, indented, for an error message."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return "  (no log)"
    return "\n".join(f"  {line}" for line in text.splitlines()[-lines:]) or "  (its log is empty)"
