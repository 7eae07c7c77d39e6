"""A message bus in memory. It keeps what was published, and can hold messages back or lose them."""

from collections.abc import Callable, Sequence
from typing import Any

from replication.bus import wire
from replication.streams import EVENTS, Stream


class MemoryBus:
    """Delivers what is published at once.

    published: all messages, as (channel, message).
    holding: while True, messages wait for `release`, or for `drop_held`, which loses them.
    """

    connected = True

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.holding = False
        self._held: list[tuple[str, bytes]] = []
        self._subscribers: list[tuple[set[str], Callable[[str, bytes], None]]] = []

    def publish(self, channel: str, message: bytes) -> None:
        self.published.append((channel, message))
        if self.holding:
            self._held.append((channel, message))
        else:
            self._deliver(channel, message)

    def subscribe(
        self, channels: Sequence[str], on_message: Callable[[str, bytes], None], on_up: Callable[[], None]
    ) -> None:
        self._subscribers.append((set(channels), on_message))

    def release(self) -> None:
        self.holding = False
        held, self._held = self._held, []
        for channel, message in held:
            self._deliver(channel, message)

    def drop_held(self) -> None:
        self.holding = False
        self._held = []

    async def close(self) -> None:
        """Nothing is open."""

    def rows(self, stream: Stream = EVENTS) -> list[Any]:
        """Return every row that was announced on the stream."""
        decoder = wire.row_decoder(stream.row)
        frames = [wire.decode_frame(message) for channel, message in self.published if channel == stream.channel]
        return [decoder.decode(row) for frame in frames for row in frame.rows]

    def _deliver(self, channel: str, message: bytes) -> None:
        for channels, on_message in self._subscribers:
            if channel in channels:
                on_message(channel, message)
