"""A TCP proxy between workers and Redis that loses, doubles, delays and reorders messages, for each reader separately.

It parses Redis' protocol to find the end of each published message. A random generator for each reader's connection,
seeded with the proxy's seed and the number of the connection, decides what happens to a message. Later messages
overtake a late one.
"""

import asyncio
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

_MESSAGE = b"*3\r\n$7\r\nmessage\r\n"


@dataclass(frozen=True, slots=True)
class Weather:
    """The faults.

    lose, double, late: shares of all messages, 0 to 1.
    longest_s: the longest delay of late messages.
    lost: called with the channel and the message; True if all readers lose it.
    """

    lose: float = 0.0
    double: float = 0.0
    late: float = 0.0
    longest_s: float = 0.0
    lost: Callable[[str, bytes], bool] = lambda _channel, _message: False

    def fate(self, rng: random.Random, channel: str, message: bytes) -> list[float]:
        """Return the delays in seconds of a message: one for each time it arrives."""
        if self.lost(channel, message) or rng.random() < self.lose:
            return []
        delays = [0.0, 0.0] if rng.random() < self.double else [0.0]
        return [rng.uniform(0, self.longest_s) if rng.random() < self.late else delay for delay in delays]


FINE = Weather()


class RedisProxy:
    """server_port: the port of Redis. port: of the proxy. weather: can be set at any time, from any thread."""

    def __init__(self, server_port: int, seed: int) -> None:
        self._server_port = server_port
        self._seed = seed
        self._connections = 0
        self._writers: set[asyncio.StreamWriter] = set()
        self.weather = FINE
        self.counts = {"passed": 0, "lost": 0, "doubled": 0, "late": 0}
        self._loop = asyncio.new_event_loop()
        listening = threading.Event()
        threading.Thread(target=self._run, args=(listening,), daemon=True).start()
        listening.wait()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)

    @property
    def open(self) -> int:
        """The number of open connections. Each worker has two."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Break all connections."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    def _run(self, listening: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port: int = self._server.sockets[0].getsockname()[1]
        listening.set()
        self._loop.run_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        rng = random.Random(f"{self._seed}/{self._connections}")
        try:
            server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self._server_port)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, server_writer}
        self._writers |= ends
        down = asyncio.create_task(self._down(server_reader, writer, rng))
        try:
            while data := await reader.read(65536):
                server_writer.write(data)
        except OSError:
            pass
        finally:
            self._writers -= ends
            down.cancel()
            for end in ends:
                end.transport.abort()

    async def _down(self, server: asyncio.StreamReader, client: asyncio.StreamWriter, rng: random.Random) -> None:
        waiting = bytearray()
        try:
            while data := await server.read(65536):
                waiting += data
                start = 0
                while (end := end_of_reply(waiting, start)) is not None:
                    self._pass_on(bytes(waiting[start:end]), client, rng)
                    start = end
                del waiting[:start]
        except OSError:
            pass
        client.transport.abort()

    def _pass_on(self, reply: bytes, client: asyncio.StreamWriter, rng: random.Random) -> None:
        if not reply.startswith(_MESSAGE):
            client.write(reply)
            return
        channel, message = _parts(reply)
        delays = self.weather.fate(rng, channel, message)
        self.counts["lost" if not delays else "passed"] += 1
        self.counts["doubled"] += len(delays) > 1
        for delay in delays:
            if delay:
                self.counts["late"] += 1
                self._loop.call_later(delay, _write_late, client, reply)
            else:
                client.write(reply)


def _write_late(client: asyncio.StreamWriter, reply: bytes) -> None:
    if not client.transport.is_closing():
        client.write(reply)


def _parts(reply: bytes) -> tuple[str, bytes]:
    """Return the channel without its prefix, and the message."""
    length, _, rest = reply[len(_MESSAGE) + 1 :].partition(b"\r\n")
    channel, rest = rest[: int(length)], rest[int(length) + 3 :]
    length, _, rest = rest.partition(b"\r\n")
    return channel.decode().rpartition(":")[2], rest[: int(length)]


def end_of_reply(data: bytes | bytearray, start: int) -> int | None:
    """Return the end of the reply that begins at `start`, or None while it is incomplete (RESP2)."""
    line = data.find(b"\r\n", start)
    if line < 0:
        return None
    kind, end = data[start : start + 1], line + 2
    if kind == b"$":
        length = int(data[start + 1 : line])
        end += 0 if length < 0 else length + 2
        return end if end <= len(data) else None
    if kind == b"*":
        for _ in range(int(data[start + 1 : line])):
            inner = end_of_reply(data, end)
            if inner is None:
                return None
            end = inner
    return end
