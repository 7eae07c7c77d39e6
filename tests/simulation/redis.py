"""A simulated Redis with delivery at most once. It loses, delays, duplicates and reorders messages, and has outages."""

from collections.abc import Callable, Sequence
from random import Random

from tests.simulation.postgres import WORLD
from tests.simulation.virtual_loop import Host, VirtualLoop


class SimRedis:
    """The Redis of one simulated fleet.

    loss, duplicated, late: probabilities per delivery.
    on_publish: called with every message that a process publishes.
    """

    def __init__(self, loop: VirtualLoop, random: Random, on_publish: Callable[[str, bytes], None]) -> None:
        self.loop = loop
        self.random = random
        self.on_publish = on_publish
        self.down = False
        self.loss = 0.0
        self.duplicated = 0.0
        self.late = 0.0
        self.transports: list[SimTransport] = []

    def deliver(self, channel: str, message: bytes) -> None:
        for transport in self.transports:
            if channel in transport.channels and transport.connected and self.random.random() >= self.loss:
                self._deliver_to(transport, channel, message)
                if self.duplicated and self.random.random() < self.duplicated:
                    self._deliver_to(transport, channel, message)

    def _deliver_to(self, transport: "SimTransport", channel: str, message: bytes) -> None:
        late = self.late and self.random.random() < self.late
        delay = self.random.uniform(0.05, 1.0) if late else self.random.uniform(0.0003, 0.002)
        self.loop.call_later(
            delay, transport.receive, transport.generation, channel, message, context=transport.host.context
        )

    def stop(self) -> None:
        """Break every subscription, as an end or a flush of Redis does."""
        self.down = True
        for transport in self.transports:
            transport.disconnect()

    def start(self) -> None:
        self.down = False
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
        if not self.redis.down:
            self.redis.loop.call_later(
                self.redis.random.uniform(0.0001, 0.001), self.redis.deliver, channel, message, context=WORLD
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

    def disconnect(self) -> None:
        self.connected = False
        self.generation += 1

    def receive(self, generation: int, channel: str, message: bytes) -> None:
        if generation == self.generation:
            self._on_message(channel, message)

    async def close(self) -> None:
        self.disconnect()
        if self in self.redis.transports:
            self.redis.transports.remove(self)

    def _up(self, generation: int) -> None:
        if generation == self.generation and not self.connected and not self.redis.down:
            self.connected = True
            self._on_up()
