"""The peak memory of processes under load, compared with their configuration."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load.harness.measure import Process

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """The memory of one process in MiB.

    before: resident before the load.
    peak: the greatest since then.
    budget: see `Budget`.
    """

    before: float
    peak: float
    budget: float | None

    @property
    def share(self) -> float | None:
        """The peak divided by the budget. The goal is at most 1.2."""
        return None if not self.budget else self.peak / self.budget


@dataclass(frozen=True, slots=True)
class Budget:
    """The allowed memory of a synchrotron: its memory after the start and the size of its caches.

    empty: MiB by process after the start.
    caches_bytes: the sum of the limits in the configuration.
    """

    empty: Mapping[str, float]
    caches_bytes: int

    def of(self, process: Process) -> float | None:
        empty = self.empty.get(process.name)
        return None if empty is None or process.type != "synchrotron" else empty + self.caches_bytes / _MIB


def resident_mib(pid: int) -> float:
    """Return the resident memory, 0.0 for a process that has ended."""
    return _field(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Return the peak since `begin_peaks`, 0.0 for a process that has ended."""
    return _field(pid, "VmHWM")


def begin_peaks(processes: Sequence[Process]) -> dict[str, float]:
    """Reset the peaks, and return the resident memory by process.

    Writing 5 to clear_refs resets the peak, see proc(5). Where that is not allowed, peaks count from the process start.
    """
    before = {}
    for process in processes:
        before[process.name] = resident_mib(process.pid)
        try:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5", encoding="ascii")
        except OSError as error:
            print(f"the peak of {process.name} counts from its start: {error}", file=sys.stderr)
    return before


def end_peaks(processes: Sequence[Process], before: Mapping[str, float], budget: Budget | None) -> dict[str, Memory]:
    """Return each process's memory since `begin_peaks`."""
    return {
        each.name: Memory(before[each.name], peak_mib(each.pid), budget.of(each) if budget else None)
        for each in processes
        if each.name in before
    }


def _field(pid: int, name: str) -> float:
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0
    found = re.search(rf"{name}:\s+(\d+) kB", text)
    return int(found[1]) / 1024 if found else 0.0
