"""PURE: one reader of one stored stream. Frames, ticks and repaired rows go in; rows to apply and "repair" come out.

Invariants of a session:
- Every row of writer w at or below `positions[w]` was applied, or is older than the session. So the vector is honest at
  any time.
- A row is applied at most once, in its writer's order, and never before the row of another writer that precedes it in
  the same room (`prior_*`).
- Every writer that may write is in `positions`, or has a number above `known`.

`follower.py` performs the actions. Nothing here waits, reads a clock or knows Redis.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replication.bus.wire import Frame, Tick
from shared.core.sync_tokens.vector import Vector, vector_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """Actions for the follower."""

    #: Apply these rows now, in this order.
    rows: Sequence[Any] = ()
    #: Read Postgres above the vector.
    repair: bool = False
    #: Read the table of writers first.
    writers: bool = False
    #: Ephemeral streams only: (writer, position). The writer's values up to there that are not in `rows` are over.
    over: Sequence[tuple[int, int]] = ()
    #: Ephemeral streams only: ask these writers to repeat the stream.
    ask: Sequence[int] = ()


NOTHING = Outcome()


@dataclass(frozen=True, slots=True)
class WriterState:
    """One writer of the stream.

    A running session follows a new writer from its start. A new session follows a writer from its progress in Postgres:
    the session's memory is empty, and older rows are read from Postgres anyway.
    """

    writer: int
    #: Where a session begins to follow the writer.
    start: int
    #: Where a fenced writer ended, None for a living one.
    final: int | None


class StreamSession:
    """A reader of a log or state stream. `ephemeral_session.py` has the other kind. stream: the name."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.known = 0
        self.positions: dict[int, int] = {}
        self.finals: dict[int, int] = {}
        self._vector: Vector | None = None

    def learn_writers(self, known: int, writers: Iterable[WriterState]) -> Outcome:
        """Take in the table of writers. known: the greatest lease number that the reading snapshot held."""
        for state in writers:
            if state.writer not in self.positions:
                if state.writer <= self.known:
                    continue  # dead, and forgotten on purpose: every living writer is beyond it
                self.positions[state.writer] = state.start
            if state.final is not None:
                self.finals[state.writer] = state.final
        self.known = max(self.known, known)
        self._forget_the_dead()
        self._vector = None
        return NOTHING

    def receive(self, frame: Frame, rows: Sequence[Any]) -> Outcome:
        """Take in a frame. rows: its rows, decoded."""
        writer = frame.writer
        have = self.positions.get(writer)
        if have is None:
            return Outcome(repair=True, writers=True) if writer > self.known else NOTHING
        if writer in self.finals and frame.current > self.finals[writer]:
            return NOTHING  # a fenced process announces rows that were never stored
        if frame.previous > have:
            return Outcome(repair=True)
        fresh = [row for row in rows if row.position > have]
        for row in fresh:
            prior = getattr(row, "prior_writer", None)
            if prior is not None and not self._has(prior, row.prior_position):
                return Outcome(repair=True, writers=prior > self.known)
        self._advance(writer, frame.current)
        return Outcome(fresh)

    def tick(self, tick: Tick) -> Outcome:
        """Take in a writer's progress. It shows a lost last frame, and advances an idle writer."""
        progress = tick.progress.get(self.stream)
        if progress is None:
            return NOTHING
        have = self.positions.get(tick.writer)
        if have is None:
            return Outcome(repair=True, writers=True) if tick.writer > self.known else NOTHING
        if max(progress.last.values(), default=0) > have:
            return Outcome(repair=True)
        limit = self.finals.get(tick.writer, progress.complete_up_to)
        self._advance(tick.writer, min(limit, progress.complete_up_to))
        return NOTHING

    def repaired(self, rows: Sequence[Any]) -> Outcome:
        """Take in a page of rows of *all* writers from Postgres above `least_position`, in position order."""
        fresh = []
        unknown = False
        for row in rows:
            have = self.positions.get(row.writer)
            if have is None:
                unknown = unknown or row.writer > self.known
                continue
            if row.position > have:
                fresh.append(row)
                self.positions[row.writer] = row.position
        self._vector = None
        self._forget_the_dead()
        return Outcome(fresh, writers=unknown)

    def advance_idle_writers(self, complete_up_to: Mapping[int, int]) -> None:
        """Advance writers without new rows, after a whole repair.

        complete_up_to: from the same snapshot, the progress beside the heartbeats of living writers, and the ends of
            dead ones.
        """
        for writer, position in complete_up_to.items():
            if writer in self.positions:
                self._advance(writer, min(position, self.finals.get(writer, position)))
        self._forget_the_dead()

    @property
    def least_position(self) -> int:
        """The start of a repair: every row above this may be new."""
        return min(self.positions.values(), default=0)

    def vector(self) -> Vector:
        if self._vector is None:
            self._vector = vector_of(self.known, self.positions, self._open())
        return self._vector

    def covers(self, wanted: Vector) -> bool:
        """Return whether every row at or below `wanted` has been applied here."""
        if wanted.known > self.known:
            return False
        for writer, have in self.positions.items():
            want = wanted.at(writer)
            if have < min(want, self.finals.get(writer, want)):
                return False
        return True

    def _has(self, writer: int, position: int) -> bool:
        have = self.positions.get(writer)
        # A writer that was forgotten is dead, and every living writer is beyond it.
        return position <= have if have is not None else writer <= self.known

    def _advance(self, writer: int, position: int) -> None:
        if position > self.positions[writer]:
            self.positions[writer] = position
            self._vector = None
            if writer not in self.finals:
                self._forget_the_dead()

    def _open(self) -> list[int]:
        """Return the writers whose rows may still come: living ones, and dead ones whose last rows are missing here.

        After this process learned that a writer is dead, and before it read the last rows, the vector must not cover
        them.
        """
        return [w for w, position in self.positions.items() if w not in self.finals or position < self.finals[w]]

    def _forget_the_dead(self) -> None:
        if not self.finals:
            return
        still_open = self._open()
        if not still_open:
            return
        base = min(self.positions[writer] for writer in still_open)
        for writer, final in list(self.finals.items()):
            if final <= base and self.positions.get(writer, final) >= final:
                self.positions.pop(writer, None)
                del self.finals[writer]
