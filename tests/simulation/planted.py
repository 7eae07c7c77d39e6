"""Bugs planted on purpose. Each replaces one function or statement of production code; the simulator must find it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from replication.bus.wire import Frame
from replication.slots.forwarder import SlotForwarder
from replication.slots.table import SlotTable
from replication.streams.announcer import Announcer
from replication.streams.ephemeral_session import EphemeralSession
from replication.streams.fenced_writer import FencedWriter
from replication.streams.session import Outcome, StreamSession
from shared.storage.engine.fenced import FENCE
from tests.simulation import roles
from workers.main.decisions import Judgement


def _skipped_announcement() -> Any:
    announce = Announcer.announce

    def sometimes(self: Announcer, stream: Any, rows: Any) -> None:
        if rows and rows[-1].position % 7:
            announce(self, stream, rows)
        elif rows:
            self._seen.see(stream.name, rows[-1].position)

    return patch.object(Announcer, "announce", sometimes)


def _position_moves_backwards() -> Any:
    def advance(self: StreamSession, writer: int, position: int) -> None:
        self.positions[writer] = position
        self._vector = None

    return patch.object(StreamSession, "_advance", advance)


def _missing_fence() -> Any:
    without = replace(roles.WRITE_EVENTS, sql=roles.WRITE_EVENTS.sql.replace(FENCE, "nothing"))
    return patch.object(roles, "WRITE_EVENTS", without)


def _no_floor() -> Any:
    def complete(self: FencedWriter, stream: str) -> int:
        return self._seen.greatest.get(stream, 0)

    return patch.object(FencedWriter, "complete_up_to", complete)


def _complete_before_announcement() -> Any:
    """Release the floor when the statement ends, before its rows are announced."""
    write = FencedWriter._write

    async def forgets(
        self: FencedWriter, statement: Any, args: Any, streams: Any, floors: Any, timeout_s: float
    ) -> Any:
        try:
            return await write(self, statement, args, streams, floors, timeout_s)
        finally:
            self._announced(floors)

    return patch.object(FencedWriter, "_write", forgets)


def _prior_ignored() -> Any:
    return patch.object(StreamSession, "_has", lambda self, prior, position: True)


def _dead_dropped_at_once() -> Any:
    def forget(self: StreamSession) -> None:
        for writer in self.finals:
            self.positions.pop(writer, None)
        self.finals.clear()

    return patch.object(StreamSession, "_forget_the_dead", forget)


@contextmanager
def _one_writer_repaired() -> Iterator[None]:
    receive, repaired = StreamSession.receive, StreamSession.repaired
    gaps: dict[StreamSession, int] = {}

    def remember(self: StreamSession, frame: Frame, rows: Any) -> Outcome:
        outcome = receive(self, frame, rows)
        if outcome.repair:
            gaps[self] = frame.writer
        return outcome

    def one(self: StreamSession, rows: Any) -> Outcome:
        writer = gaps.get(self)
        return repaired(self, [row for row in rows if writer is None or row.writer == writer])

    with patch.object(StreamSession, "receive", remember), patch.object(StreamSession, "repaired", one):
        yield


def _unknown_writer_accepted() -> Any:
    receive = StreamSession.receive

    def accept(self: StreamSession, frame: Frame, rows: Any) -> Outcome:
        if frame.writer > self.known:
            self.positions[frame.writer] = frame.previous
            self.known = frame.writer
            self._vector = None
        return receive(self, frame, rows)

    return patch.object(StreamSession, "receive", accept)


def _next_owner_treated_as_owner() -> Any:
    def owns(self: SlotTable, kind: str, slot: int) -> bool:
        return self._next_owners[kind].get(slot, self._owners[kind].get(slot)) == self._lease

    return patch.object(SlotTable, "owns", owns)


def _requests_not_waited_for() -> Any:
    async def at_once(self: SlotForwarder, kind: str, slots: Any, timeout_s: float) -> set[int]:
        return set(slots)

    return patch.object(SlotForwarder, "until_free", at_once)


def _ephemeral_gap_ignored() -> Any:
    return patch.object(EphemeralSession, "_missing", lambda self, writer: ())


def _ticks_ignored() -> Any:
    """Ignore ticks. A lost last frame is then noticed only with the next frame."""
    return patch.object(StreamSession, "tick", lambda self, tick: Outcome())


def _silence_by_the_databases_clock() -> Any:
    return patch.object(Judgement, "silent_s", lambda self, process: process.silent_s)


PLANTED: dict[str, Callable[[], Any]] = {
    "skipped announcement": _skipped_announcement,
    "position moves backwards": _position_moves_backwards,
    "missing fence": _missing_fence,
    "no floor": _no_floor,
    "complete before announcement": _complete_before_announcement,
    "prior ignored": _prior_ignored,
    "dead writer dropped at once": _dead_dropped_at_once,
    "one writer repaired": _one_writer_repaired,
    "unknown writer accepted": _unknown_writer_accepted,
    "next owner treated as owner": _next_owner_treated_as_owner,
    "requests not waited for": _requests_not_waited_for,
    "ephemeral gap ignored": _ephemeral_gap_ignored,
    "ticks ignored": _ticks_ignored,
    "silence by the database's clock": _silence_by_the_databases_clock,
}

#: Seeds that found the rarer bugs. The search tries them first, then the others: a change of the simulated code changes
#: the run of a seed.
KNOWN_SEEDS = {
    "complete before announcement": 24,
    "prior ignored": 58,
    "unknown writer accepted": 58,
    "requests not waited for": 78,
    "ticks ignored": 690,
}
