"""Ephemeral streams heal by asking: a reader that missed something asks the writer, who tells all that is valid now.

Both sides are bounded: a reader asks a writer at most twice a second, and a writer answers all who ask with one
telling, at most twice a second too. The answer goes to everybody; to who has missed nothing it says nothing new.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from replication.bus import wire
from replication.bus.transport import Transport
from replication.streams import Kind, Stream
from shared.runtime.clock import Clock

_EVERY_S = 0.5


class Asker:
    """The reader's side."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._asked_at: dict[tuple[str, int], float] = {}

    def ask(self, stream: str, writers: Iterable[int]) -> None:
        """Ask these writers; who was asked just now is left in peace (its next tick asks again, if it must)."""
        now = self._clock.monotonic_s()
        for writer in writers:
            if now - self._asked_at.get((stream, writer), -_EVERY_S) >= _EVERY_S:
                self._asked_at[stream, writer] = now
                self._transport.publish(wire.QUESTIONS, wire.encode_question(stream, writer))

    def forget(self, stream: str, writer: int) -> None:
        """The writer was fenced."""
        self._asked_at.pop((stream, writer), None)


class Teller(Protocol):
    """What of `replication.streams.announcer.Announcer` is needed."""

    def tell_all(self, stream: Stream) -> None: ...


class Answers:
    """The writer's side. teller: the announcer; written: the streams that this process may write."""

    def __init__(self, teller: Teller, written: Iterable[Stream]) -> None:
        self._teller = teller
        self._streams: Mapping[str, Stream] = {s.name: s for s in written if s.kind is Kind.EPHEMERAL}
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._told_at: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._streams)

    def asked(self, name: str) -> None:
        """Somebody missed something of this stream of ours. Answers now, or when the last answer is old enough."""
        stream = self._streams.get(name)
        if stream is None or name in self._pending:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._told_at.get(name, loop.time() - _EVERY_S) + _EVERY_S - loop.time()
        self._pending[name] = loop.call_later(max(0.0, wait_s), self._tell, stream)

    def close(self) -> None:
        for timer in self._pending.values():
            timer.cancel()

    def _tell(self, stream: Stream) -> None:
        del self._pending[stream.name]
        self._told_at[stream.name] = asyncio.get_running_loop().time()
        self._teller.tell_all(stream)
