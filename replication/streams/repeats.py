"""Repeating ephemeral streams: a reader that missed a frame asks the writer for all valid values.

Both sides are bounded. A reader asks a writer at most twice a second. A writer answers all requests with one
repetition, at most twice a second. Every reader gets the repetition; it changes nothing for those that missed nothing.
"""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Protocol

from replication.bus import wire
from replication.bus.transport import Transport
from replication.streams.registry import Kind, Stream
from shared.runtime.clock import Clock

_EVERY_S = 0.5


class RepeatRequests:
    """The reader's side."""

    def __init__(self, transport: Transport, clock: Clock) -> None:
        self._transport = transport
        self._clock = clock
        self._sent_at: dict[tuple[str, int], float] = {}

    def send(self, stream: str, writers: Iterable[int]) -> None:
        """Ask these writers to repeat a stream.

        A writer that got a request just now gets no other. Its next tick leads to one if the reader still needs it.
        """
        now = self._clock.monotonic_s()
        for writer in writers:
            if now - self._sent_at.get((stream, writer), -_EVERY_S) >= _EVERY_S:
                self._sent_at[stream, writer] = now
                self._transport.publish(wire.REPEATS, wire.encode_repeat_request(stream, writer))

    def forget(self, stream: str, writer: int) -> None:
        """Forget a writer whose values are complete, or that was fenced."""
        self._sent_at.pop((stream, writer), None)


class Repeating(Protocol):
    """The part of `Announcer` used here."""

    def repeat(self, stream: Stream) -> None: ...


class Repeater:
    """The writer's side. written: the streams that this process may write."""

    def __init__(self, announcer: Repeating, written: Iterable[Stream]) -> None:
        self._announcer = announcer
        self._streams: Mapping[str, Stream] = {s.name: s for s in written if s.kind is Kind.EPHEMERAL}
        self._pending: dict[str, asyncio.TimerHandle] = {}
        self._repeated_at: dict[str, float] = {}

    def __bool__(self) -> bool:
        return bool(self._streams)

    def requested(self, name: str) -> None:
        """Repeat a stream now, or once the last repetition is old enough."""
        stream = self._streams.get(name)
        if stream is None or name in self._pending:
            return
        loop = asyncio.get_running_loop()
        wait_s = self._repeated_at.get(name, loop.time() - _EVERY_S) + _EVERY_S - loop.time()
        self._pending[name] = loop.call_later(max(0.0, wait_s), self._repeat, stream)

    def close(self) -> None:
        for timer in self._pending.values():
            timer.cancel()

    def _repeat(self, stream: Stream) -> None:
        del self._pending[stream.name]
        self._repeated_at[stream.name] = asyncio.get_running_loop().time()
        self._announcer.repeat(stream)
