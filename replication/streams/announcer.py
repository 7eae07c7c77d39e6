"""Announcing what this process wrote: frames after each commit, and a tick every second."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from replication.bus import wire
from replication.bus.transport import Transport
from replication.streams.fenced_writer import FencedWriter, SeenPositions
from replication.streams.registry import Kind, Stream


class Announcer:
    """The writer's side of the streams."""

    def __init__(self, lease: int, transport: Transport, seen: SeenPositions) -> None:
        self.lease = lease
        self._transport = transport
        self._seen = seen
        self._last: dict[str, int] = {}  # the last position on each channel
        self._counters: dict[str, int] = {}  # the last position of each ephemeral stream
        self._values: dict[str, Callable[[], Sequence[Any]]] = {}

    def announce(self, stream: Stream, rows: Sequence[Any]) -> None:
        """Publish committed rows of the stream's row type, in ascending position."""
        if not rows:
            return
        if stream.kind is not Kind.EPHEMERAL:
            self._seen.see(stream.name, rows[-1].position)
        self._publish(stream, rows, None)

    def set_values(self, stream: Stream, values: Callable[[], Sequence[Any]]) -> None:
        """Set the values of an ephemeral stream. values: returns a row with a new position for each valid value."""
        self._values[stream.name] = values

    def repeat(self, stream: Stream) -> None:
        """Publish all valid values of an ephemeral stream. Values that are not among them are over."""
        over = self._counters.get(stream.name, 0)
        self._publish(stream, self._values.get(stream.name, tuple)(), over)

    def _publish(self, stream: Stream, rows: Sequence[Any], over: int | None) -> None:
        channel = stream.channel
        last = self._last.get(channel, 0)
        encoded = [(row.position, b"" if getattr(row, "is_unsent", False) else wire.encode_row(row)) for row in rows]
        for frame in wire.encode_frames(stream.name, self.lease, channel, last, encoded, over):
            self._transport.publish(channel, frame)
        if rows:
            self._last[channel] = rows[-1].position

    def next_ephemeral_position(self, stream: Stream) -> int:
        """Return the next position of this writer's own counter."""
        position = self._counters.get(stream.name, 0) + 1
        self._counters[stream.name] = position
        return position

    def tick(self, streams: Iterable[Stream], complete_up_to: Callable[[str], int]) -> dict[str, int]:
        """Publish a tick. Return "complete up to" by stream, for the heartbeat to store."""
        progress = {}
        for stream in streams:
            reached = (
                self._counters.get(stream.name, 0) if stream.kind is Kind.EPHEMERAL else complete_up_to(stream.name)
            )
            last = self._last.get(stream.channel)
            progress[stream.name] = wire.Progress(reached, {stream.channel: last} if last is not None else {})
        tick = wire.Tick(wire.VERSION, self.lease, progress, dict(self._seen.greatest))
        self._transport.publish(wire.TICKS, wire.encode_tick(tick))
        return {name: part.complete_up_to for name, part in progress.items()}

    def notice(self, topic: str) -> None:
        """Tell every process that something in Postgres changed ("slots")."""
        self._transport.publish(wire.CONTROL, wire.encode_notice(topic))


class Ticker:
    """Publishes the process's tick every second. `positions` is what its heartbeat stores."""

    def __init__(self, announcer: Announcer, writer: FencedWriter, streams: Sequence[Stream], tick_s: float) -> None:
        self._announcer = announcer
        self._writer = writer
        self._streams = streams
        self._tick_s = tick_s
        self.positions: dict[str, int] = {}

    async def run(self) -> None:
        while True:
            self.positions = self._announcer.tick(self._streams, self._writer.complete_up_to)
            await asyncio.sleep(self._tick_s)
