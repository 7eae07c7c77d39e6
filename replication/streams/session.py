"""PURE: one reader of one stored stream. Frames, ticks and repaired rows go in; rows to apply and "repair" come out.

Always true of a session:
- `positions[w]` is a place of writer w such that every row of w at or below it was applied (or is older than the
  session): so the session's vector is honest at any time.
- a row is applied at most once, in its writer's order, and never before the row of another writer that precedes it
  in the same room (`prior_*`).
- every writer that may write is in `positions`, or numbered above `known`.

`follower.py` does what this says. Nothing here waits, reads a clock or knows Redis.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from replication.bus.wire import Frame, Tick
from shared.core.sync_tokens.vector import Vector, vector_of


@dataclass(frozen=True, slots=True)
class Outcome:
    """rows: to apply now, in this order; repair: read Postgres above the vector; writers: first read `writers`.

    Of ephemeral streams, over: (writer, position): what that writer told at or below it is over unless it is among the
    rows; ask: the writers to be asked for all that is valid now.
    """

    rows: Sequence[Any] = ()
    repair: bool = False
    writers: bool = False
    over: Sequence[tuple[int, int]] = ()
    ask: Sequence[int] = ()


NOTHING = Outcome()


@dataclass(frozen=True, slots=True)
class WriterState:
    """One writer of the stream: where a session begins to follow it, and where it ended once it was fenced.

    To a session that runs already, a new writer begins at its start. To a session that begins, a writer stands where
    Postgres says that it has come: the session's memory is empty, and what is older is read from Postgres anyway.
    """

    writer: int
    start: int
    final: int | None


class StreamSession:
    """stream: its name, of kind log or state; `ephemeral_session.py` has the other kind."""

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
                    continue  # dead, and passed by everybody: forgotten on purpose
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
            return NOTHING  # a fenced process speaks of what was never stored
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
        """Take in what a writer says of itself: a lost last frame shows here, an idle writer moves on here."""
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
        """Take in a page of Postgres' rows of *all* writers above `least_position`, in position order."""
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

    def idle_writers(self, complete_up_to: Mapping[int, int]) -> None:
        """Take in how far writers had come, read in the same snapshot as a whole repair.

        complete_up_to: what the living stored beside their heartbeats, and where the dead ended.
        """
        for writer, position in complete_up_to.items():
            if writer in self.positions:
                self._advance(writer, min(position, self.finals.get(writer, position)))
        self._forget_the_dead()

    @property
    def least_position(self) -> int:
        """Every row above this may be new: where a repair starts."""
        return min(self.positions.values(), default=0)

    def vector(self) -> Vector:
        if self._vector is None:
            self._vector = vector_of(self.known, self.positions, self._open())
        return self._vector

    def covers(self, wanted: Vector) -> bool:
        """Return whether every row behind `wanted` has been applied here."""
        if wanted.known > self.known:
            return False
        for writer, have in self.positions.items():
            want = wanted.at(writer)
            if have < min(want, self.finals.get(writer, want)):
                return False
        return True

    def _has(self, writer: int, position: int) -> bool:
        have = self.positions.get(writer)
        # A writer that we dropped was dead and passed by everybody.
        return position <= have if have is not None else writer <= self.known

    def _advance(self, writer: int, position: int) -> None:
        if position > self.positions[writer]:
            self.positions[writer] = position
            self._vector = None
            if writer not in self.finals:
                self._forget_the_dead()

    def _open(self) -> list[int]:
        """The writers whose rows may still come: the living, and the dead of whom we lack the last ones.

        Between learning that a writer is dead and reading what it wrote last, the vector must not say that we have it.
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
