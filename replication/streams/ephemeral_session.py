"""PURE: one reader of one ephemeral stream. Nothing of it is in Postgres: what was missed is asked of its writer.

A frame carries whole values, so what follows a lost one is applied all the same; the writer is asked for all that is
valid now. Its answer is ordinary frames, the last of which says up to which position everything that it has not told
anew is over (`Frame.over`). Positions are each writer's own counter.

Always true of a session: every value that was applied of a writer whose number is not in `missed` is as that writer
last told it, and no value of a fenced writer stays.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from replication.bus.wire import Frame, Tick
from replication.streams.session import NOTHING, Outcome, WriterState
from shared.core.sync_tokens.vector import Vector

EVERYTHING = (1 << 63) - 1


class EphemeralSession:
    """stream: its name. missed: by writer, a position at or below which something never came."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.known = 0
        self.positions: dict[int, int] = {}
        self.finals: dict[int, int] = {}  # nobody's: a fenced writer is forgotten with all that it told
        self.missed: dict[int, int] = {}
        self._vector: Vector | None = None

    def learn_writers(self, known: int, writers: Iterable[WriterState]) -> Outcome:
        """Take in the table of writers. What the fenced ones told is over; a new one tells of itself in its ticks."""
        over = []
        for state in writers:
            if state.final is not None:
                if self.positions.pop(state.writer, None) is not None:
                    over.append((state.writer, EVERYTHING))
                self.missed.pop(state.writer, None)
            elif state.writer > self.known:
                self.positions.setdefault(state.writer, 0)
        self.known = max(self.known, known)
        self._vector = None
        return Outcome(over=over)

    def receive(self, frame: Frame, rows: Sequence[Any]) -> Outcome:
        """Take in a frame. rows: its rows, decoded."""
        writer = frame.writer
        have = self.positions.get(writer)
        if have is None:
            return self._stranger(writer)
        if frame.previous > have:
            self.missed[writer] = frame.previous
        self.positions[writer] = max(have, frame.current)
        self._vector = None
        over = []
        if frame.over is not None and self.missed.get(writer, 0) <= frame.over:
            self.missed.pop(writer, None)
            over.append((writer, frame.over))
        return Outcome([row for row in rows if row.position > have], over=over, ask=self._to_ask(writer))

    def tick(self, tick: Tick) -> Outcome:
        """Take in what a writer says of itself: its counter tells of a lost last frame, and of all before we came."""
        progress = tick.progress.get(self.stream)
        if progress is None:
            return NOTHING
        writer = tick.writer
        have = self.positions.get(writer)
        if have is None:
            return self._stranger(writer)
        if progress.complete_up_to > have:
            self.missed[writer] = progress.complete_up_to
        return Outcome(ask=self._to_ask(writer))

    def vector(self) -> Vector:
        if self._vector is None:
            self._vector = Vector(self.known, 0, {w: p for w, p in self.positions.items() if p > 0})
        return self._vector

    def covers(self, wanted: Vector) -> bool:
        """Return whether every writer behind `wanted` is known here: there are no rows to wait for."""
        return wanted.known <= self.known

    def _stranger(self, writer: int) -> Outcome:
        """A writer not in the table as we know it: a new one, or one that was fenced and does not know it."""
        return Outcome(repair=True, writers=True) if writer > self.known else NOTHING

    def _to_ask(self, writer: int) -> Sequence[int]:
        return (writer,) if writer in self.missed else ()
