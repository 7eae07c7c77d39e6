"""PURE: one reader of one ephemeral stream. It has no rows in Postgres: a reader asks the writer for missed values.

A frame carries whole values, so frames after a lost one are applied all the same, and the writer is asked to repeat all
valid values. The repetition is ordinary frames. The last one says up to which position values that were not repeated
are over (`Frame.over`). Positions are each writer's own counter.

Invariants of a session: the values of a writer that is not in `missed` are as that writer last published them. No value
of a fenced writer stays.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from replication.bus.wire import Frame, Tick
from replication.streams.session import NOTHING, Outcome, WriterState
from shared.core.sync_tokens.vector import Vector

EVERYTHING = (1 << 63) - 1


class EphemeralSession:
    """A reader of an ephemeral stream. missed: by writer, a position at or below which a frame is missing."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.known = 0
        self.positions: dict[int, int] = {}
        self.finals: dict[int, int] = {}  # always empty: a fenced writer is forgotten with its values
        self.missed: dict[int, int] = {}
        self._vector: Vector | None = None

    def learn_writers(self, known: int, writers: Iterable[WriterState]) -> Outcome:
        """Take in the table of writers. The values of fenced writers are over. Ticks show the values of new ones."""
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
            return self._unknown_writer(writer)
        if frame.previous > have:
            self.missed[writer] = frame.previous
        self.positions[writer] = max(have, frame.current)
        self._vector = None
        over = []
        if frame.over is not None and self.missed.get(writer, 0) <= frame.over:
            self.missed.pop(writer, None)
            over.append((writer, frame.over))
        return Outcome([row for row in rows if row.position > have], over=over, ask=self._missing(writer))

    def tick(self, tick: Tick) -> Outcome:
        """Take in a writer's counter. It shows a lost last frame, and values from before this session began."""
        progress = tick.progress.get(self.stream)
        if progress is None:
            return NOTHING
        writer = tick.writer
        have = self.positions.get(writer)
        if have is None:
            return self._unknown_writer(writer)
        if progress.complete_up_to > have:
            self.missed[writer] = progress.complete_up_to
        return Outcome(ask=self._missing(writer))

    def vector(self) -> Vector:
        if self._vector is None:
            self._vector = Vector(self.known, 0, {w: p for w, p in self.positions.items() if p > 0})
        return self._vector

    def covers(self, wanted: Vector) -> bool:
        """Return whether every writer in `wanted` is known here. There are no rows to wait for."""
        return wanted.known <= self.known

    def _unknown_writer(self, writer: int) -> Outcome:
        """Return what to do about an unknown writer: a new one, or a fenced one that does not know it yet."""
        return Outcome(repair=True, writers=True) if writer > self.known else NOTHING

    def _missing(self, writer: int) -> Sequence[int]:
        return (writer,) if writer in self.missed else ()
