"""Identities of processes. The system may reuse a pid, but not a pid together with its start time."""

import socket
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Identity:
    """One process. start_ticks: clock ticks from boot to its start, as Linux counts them."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Tell whether this process still runs (a zombie does not)."""
        return start_ticks(self.pid) == self.start_ticks


def identity_of(pid: int) -> Identity:
    """Return the identity of a running process. Raises ProcessLookupError if there is none."""
    ticks = start_ticks(pid)
    if ticks is None:
        raise ProcessLookupError(pid)
    return Identity(pid, ticks)


def start_ticks(pid: int) -> int | None:
    """Return the start time of a process; None if it does not run."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may hold anything; the fields after it are numbered from 3 in proc(5).
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in ("Z", "X") else int(fields[19])


def pick_port(host: str) -> int:
    """Return a TCP port that is free on `host` at present."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port
