"""Publish and subscribe through Redis. No other module knows Redis, and nothing is stored there.

Delivery is at most once by design. While Redis is away, a publisher drops messages and never queues them. After a
reconnection the follower treats every stream as having a gap (`on_up`). txredisapi imports the reactor, so only worker
processes import this module, after they installed the reactor.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import unquote, urlsplit

import txredisapi
from twisted.internet import defer, endpoints, ssl

from shared.config.sections import Redis

logger = logging.getLogger(__name__)

#: Of messages without an answer, which wait in memory if Redis is slow. Beyond that Redis counts as away.
_MAX_UNANSWERED_BYTES = 32 << 20
_MESSAGE_BYTES = 5_000  # a message's command and Deferreds, beside its text
_CONNECT_TIMEOUT_S = 2


class RedisTransport:
    """One publishing and one subscribing connection. Channel names get the configured prefix."""

    def __init__(self, reactor: Any, config: Redis) -> None:
        self._prefix = config.channel_prefix + ":"
        self._config = config
        self._reactor = reactor
        self._publisher = _Factory(config)
        self._subscriber: _SubscriberFactory | None = None
        self._unanswered_bytes = 0
        self._sentinels = _Sentinels(reactor, config) if config.sentinel.hosts else None
        self._publisher.startConnecting(self._endpoint())

    @property
    def connected(self) -> bool:
        return self._subscriber is not None and self._subscriber.up

    def publish(self, channel: str, message: bytes) -> None:
        """Send a message without waiting. It is dropped while Redis is away or too slow."""
        connection = self._publisher.current
        if connection is None or self._unanswered_bytes >= _MAX_UNANSWERED_BYTES:
            return
        size = _MESSAGE_BYTES + len(message)
        self._unanswered_bytes += size
        connection.execute_command("PUBLISH", self._prefix + channel, message).addBoth(self._answered, size)

    def subscribe(
        self, channels: Sequence[str], on_message: Callable[[str, bytes], None], on_up: Callable[[], None]
    ) -> None:
        """Listen to these channels from now on. on_up is called after each new subscription took effect."""
        cut = len(self._prefix)

        def received(channel: bytes, message: bytes) -> None:
            on_message(channel.decode()[cut:], message)

        self._subscriber = _SubscriberFactory(
            self._config, [self._prefix + channel for channel in channels], received, on_up
        )
        self._subscriber.startConnecting(self._endpoint())

    async def close(self) -> None:
        self._publisher.stop()
        if self._subscriber is not None:
            self._subscriber.stop()
        if self._sentinels is not None:
            self._sentinels.stop()

    def _endpoint(self) -> Any:
        return self._sentinels or _endpoint(self._reactor, self._config)

    def _answered(self, result: Any, size: int) -> None:
        self._unanswered_bytes -= size  # after an error the connection is broken: readers see a gap and repair


class _Connection(txredisapi.RedisProtocol):
    @defer.inlineCallbacks
    def connectionMade(self):  # type: ignore[no-untyped-def]
        yield txredisapi.RedisProtocol.connectionMade(self)
        if self._ready:
            self.factory.ready()
            self.factory.current = self

    def connectionLost(self, why):  # type: ignore[no-untyped-def]
        if self.factory.current is self:
            self.factory.current = None
        txredisapi.RedisProtocol.connectionLost(self, why)


class _Factory(txredisapi.RedisFactory):
    """Reconnect within a second, without a limit on attempts. Messages are bytes."""

    protocol = _Connection
    initialDelay = 0.05
    maxDelay = 1.0

    def __init__(self, config: Redis) -> None:
        user, password, database = _credentials(config)
        super().__init__(
            uuid="skep",
            dbid=database,
            poolsize=1,
            isLazy=True,
            charset=None,
            password=password,
            convertNumbers=False,
            username=user,
        )
        self.current: Any = None
        self._refused = 0  # attempts in a row that ended after connecting and before the password was accepted

    def connectionError(self, why: str) -> None:
        self._refused += 1
        logger.error("Redis: %s", why)

    def stopTrying(self) -> "defer.Deferred[None]":
        """Keep trying. `stop` is the only end.

        txredisapi gives up for good when a connection ends before its password was accepted. A Redis that is killed
        does that, and so does a proxy in front of a Redis that is away.
        """
        return defer.succeed(None)

    def retryDelay(self, attempt: int) -> float:
        delay: float = txredisapi.RedisFactory.retryDelay(self, attempt + self._refused)
        return delay

    def ready(self) -> None:
        self._refused = 0

    def stop(self) -> None:
        # This includes a connection in progress: a process that rejoins must leave none of its previous life behind.
        self.disconnect().addErrback(lambda _: None)


class _Subscription(txredisapi.SubscriberProtocol):
    @defer.inlineCallbacks
    def connectionMade(self):  # type: ignore[no-untyped-def]
        yield txredisapi.SubscriberProtocol.connectionMade(self)
        if self._ready:
            self.factory.ready()
            self.factory.current = self
            yield self.subscribe(self.factory.channels)
            self.factory.up = True
            self.factory.on_up()

    def messageReceived(self, pattern: Any, channel: bytes, message: bytes) -> None:
        self.factory.on_message(channel, message)

    def connectionLost(self, why):  # type: ignore[no-untyped-def]
        self.factory.up = False
        self.factory.current = None
        txredisapi.SubscriberProtocol.connectionLost(self, why)


class _SubscriberFactory(_Factory):
    protocol = _Subscription

    def __init__(
        self,
        config: Redis,
        channels: list[str],
        on_message: Callable[[bytes, bytes], None],
        on_up: Callable[[], None],
    ) -> None:
        super().__init__(config)
        self.channels = channels
        self.on_message = on_message
        self.on_up = on_up
        self.up = False


def _credentials(config: Redis) -> tuple[str | None, str | None, int | None]:
    """Return (user name, password, database number)."""
    if config.url is None:
        return config.username, config.password.reveal() if config.password else None, None
    parts = urlsplit(config.url.reveal())
    number = parts.path.strip("/")
    password = unquote(parts.password) if parts.password else None
    return parts.username or None, password, int(number) if number else None


def _endpoint(reactor: Any, config: Redis) -> Any:
    if config.url is not None:
        parts = urlsplit(config.url.reveal())
        if parts.scheme == "unix":
            return endpoints.UNIXClientEndpoint(reactor, parts.path, timeout=_CONNECT_TIMEOUT_S)
        return _tcp(reactor, parts.hostname or "127.0.0.1", parts.port or 6379, parts.scheme == "rediss", config)
    return _tcp(reactor, config.host or "127.0.0.1", config.port, config.tls, config)


def _tcp(reactor: Any, host: str, port: int, tls: bool, config: Redis) -> Any:
    plain = endpoints.HostnameEndpoint(reactor, host, port, timeout=_CONNECT_TIMEOUT_S)
    if not tls:
        return plain
    trust = None
    if config.ca_file is not None:
        trust = ssl.trustRootFromCertificates(
            [ssl.Certificate.loadPEM(pem) for pem in _certificates(config.ca_file.read_bytes())]
        )
    return endpoints.wrapClientTLS(ssl.optionsForClientTLS(host, trustRoot=trust), plain)


def _certificates(bundle: bytes) -> list[bytes]:
    end = b"-----END CERTIFICATE-----"
    return [part + end for part in bundle.split(end) if b"-----BEGIN CERTIFICATE-----" in part]


class _Sentinels:
    """An endpoint that asks the Sentinels for the primary before each attempt to connect."""

    def __init__(self, reactor: Any, config: Redis) -> None:
        self._reactor = reactor
        self._config = config
        addresses = []
        for entry in config.sentinel.hosts:
            host, _, port = entry.rpartition(":")
            addresses.append((host, int(port)))
        password = config.sentinel.password.reveal() if config.sentinel.password else None
        self._sentinel = txredisapi.Sentinel(addresses, password=password)
        self._sentinel.discovery_timeout = 3

    def stop(self) -> None:
        self._sentinel.disconnect().addErrback(lambda _: None)

    def connect(self, factory: Any) -> "defer.Deferred[Any]":
        found = self._sentinel.discover_master(self._config.sentinel.name)
        return found.addCallback(
            lambda address: _tcp(self._reactor, address[0], address[1], self._config.tls, self._config).connect(factory)
        )
