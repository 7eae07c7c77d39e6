"""PURE: how long processes have been silent, by the observer's own clock.

The database's clock, which dates the heartbeats, may jump. An hour's jump would make every process look dead at once.
"""

from collections.abc import Sequence

from shared.storage.fleet.leases import ProcessRow


class Pulses:
    """Remembers the heartbeat of each process and when it last changed."""

    def __init__(self) -> None:
        self._beats: dict[int, tuple[float, float]] = {}  # lease -> its last heartbeat, and when it was first seen
        self._looked_s = 0.0

    def saw(self, processes: Sequence[ProcessRow], began_s: float, ended_s: float) -> None:
        """Take in all processes.

        began_s, ended_s: when the reading of the processes began and ended. A silence is never overestimated: it begins
        after the reading that first showed the heartbeat, and lasts until the latest reading began.
        """
        self._looked_s = began_s
        before = self._beats
        self._beats = {}
        for process in processes:
            known = before.get(process.lease)
            is_same = known is not None and known[0] == process.beat
            self._beats[process.lease] = known if known is not None and is_same else (process.beat, ended_s)

    def silent_s(self, process: ProcessRow) -> float:
        """Return the time for which the process's heartbeat has not changed, 0.0 for one that is new."""
        _, since_s = self._beats.get(process.lease, (0.0, self._looked_s))
        return max(0.0, self._looked_s - since_s)
