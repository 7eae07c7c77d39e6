"""A simulated Redis: at most once. It loses, delays, doubles and reorders what it carries, goes away and comes back."""

from collections.abc import Callable, Sequence
from random import Random

from tests.simulation.postgres import WORLD
from tests.simulation.virtual_loop import Host, VirtualLoop


class SimRedis:
    """loss, doubled, late: probabilities per delivery; on_publish: sees every message that a process sends."""

    def __init__(self, loop: VirtualLoop, random: Random, on_publish: Callable[[str, bytes], None]) -> None:
        self.loop = loop
        self.random = random
        self.on_publish = on_publish
        self.away = False
        self.loss = 0.0
        self.doubled = 0.0
        self.late = 0.0
        self.transports: list[SimTransport] = []

    def carry(self, channel: str, message: bytes) -> None:
        for transport in self.transports:
            if channel in transport.channels and transport.connected and self.random.random() >= self.loss:
                self._deliver(transport, channel, message)
                if self.doubled and self.random.random() < self.doubled:
                    self._deliver(transport, channel, message)

    def _deliver(self, transport: "SimTransport", channel: str, message: bytes) -> None:
        late = self.late and self.random.random() < self.late
        delay = self.random.uniform(0.05, 1.0) if late else self.random.uniform(0.0003, 0.002)
        self.loop.call_later(
            delay, transport.take, transport.generation, channel, message, context=transport.host.context
        )

    def go_away(self) -> None:
        """Redis ends, or is flushed: every subscription breaks."""
        self.away = True
        for transport in self.transports:
            transport.cut()

    def come_back(self) -> None:
        self.away = False
        for transport in self.transports:
            transport.connect()


class SimTransport:
    """The `Transport` of one incarnation."""

    def __init__(self, redis: SimRedis, host: Host) -> None:
        self.redis = redis
        self.host = host
        self.channels: frozenset[str] = frozenset()
        self.generation = 0
        self.connected = False
        self._on_message: Callable[[str, bytes], None] = lambda channel, message: None
        self._on_up: Callable[[], None] = lambda: None

    def publish(self, channel: str, message: bytes) -> None:
        self.redis.on_publish(channel, message)
        if not self.redis.away:
            self.redis.loop.call_later(
                self.redis.random.uniform(0.0001, 0.001), self.redis.carry, channel, message, context=WORLD
            )

    def subscribe(
        self, channels: Sequence[str], on_message: Callable[[str, bytes], None], on_up: Callable[[], None]
    ) -> None:
        self.channels = frozenset(channels)
        self._on_message, self._on_up = on_message, on_up
        self.redis.transports.append(self)
        self.connect()

    def connect(self) -> None:
        delay = self.redis.random.uniform(0.001, 0.3)
        self.redis.loop.call_later(delay, self._up, self.generation, context=self.host.context)

    def cut(self) -> None:
        self.connected = False
        self.generation += 1

    def take(self, generation: int, channel: str, message: bytes) -> None:
        if generation == self.generation:
            self._on_message(channel, message)

    async def close(self) -> None:
        self.cut()
        if self in self.redis.transports:
            self.redis.transports.remove(self)

    def _up(self, generation: int) -> None:
        if generation == self.generation and not self.connected and not self.redis.away:
            self.connected = True
            self._on_up()
