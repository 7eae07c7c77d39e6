"""How much memory the processes take at most while they are under load, beside what their configuration allows."""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from load.measure import Process

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Memory:
    """Of one process, in MiB. before: resident when the load began; peak: the most since; budget: see `Budget`."""

    before: float
    peak: float
    budget: float | None

    @property
    def share(self) -> float | None:
        """The peak as a share of the budget; at most 1.2 is the aim."""
        return None if not self.budget else self.peak / self.budget


@dataclass(frozen=True, slots=True)
class Budget:
    """What a synchrotron may take: as much as it does when it has just started, and what its caches may hold.

    empty: MiB by process, when it was new; caches_bytes: the sum of the sections `caches` of the configuration.
    """

    empty: Mapping[str, float]
    caches_bytes: int

    def of(self, process: Process) -> float | None:
        empty = self.empty.get(process.name)
        return None if empty is None or process.type != "synchrotron" else empty + self.caches_bytes / _MIB


def resident_mib(pid: int) -> float:
    """Return what is resident now; 0.0 for a process that is no more."""
    return _field(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """Return the most that was resident since `begin_peaks`; 0.0 for a process that is no more."""
    return _field(pid, "VmHWM")


def begin_peaks(processes: Sequence[Process]) -> dict[str, float]:
    """Let the peaks be counted from now on; return what is resident, by process.

    proc(5), clear_refs: 5 sets the peak to what is resident now. Where that is not allowed, it counts from the start.
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
