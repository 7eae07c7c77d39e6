"""A TCP proxy between workers and PostgreSQL that cuts a writer's connection at a chosen statement.

before   the statement never reaches the server
after    the server has committed it, its answer never reaches the worker
late     the worker is cut at once; the statement reaches the server when `deliver` is called
held     the statement and all after it on its connection reach the server when `release` is called
unheard  the server has committed it, and the worker never gets the answer

`freeze` stops all open connections in both directions without breaking them.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_WRITER = b"skep-writer-"  # in the start parameters of a connection that writes under a lease
_READY_FOR_QUERY = b"Z\x00\x00\x00\x05I"  # idle again: committed


class PostgresProxy:
    """server: the path of PostgreSQL's socket. port: the port of the proxy."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._order: tuple[str, bytes] | None = None
        self._late: list[tuple[socket.socket, bytes]] = []
        self._released = threading.Event()
        self._ends: set[socket.socket] = set()
        self._frozen: set[socket.socket] = set()
        self.delay_s = 0.0  # of data to the server
        self.cuts = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, when: str, marker: bytes) -> None:
        """Cut the next writer's connection that sends data with the marker."""
        self._order = (when, marker)

    def deliver(self) -> None:
        """Deliver held statements to the server, and wait for their execution."""
        while self._late:
            server, statement = self._late.pop()
            server.sendall(statement)
            time.sleep(0.3)
            _close(server)

    def hold(self, marker: bytes) -> None:
        """Hold the next writer's connection that sends data with the marker."""
        self._released = threading.Event()
        self._order = ("held", marker)

    def freeze(self) -> None:
        """Stop all open connections. New ones work."""
        self._frozen |= self._ends

    def release(self) -> None:
        """Release held connections."""
        self._released.set()

    def redirect(self, server: str) -> None:
        """Connect new connections to another server, as an address that moves to a promoted standby does."""
        self._server = server

    def cut_all(self) -> None:
        """Break every connection."""
        for end in list(self._ends):
            _close(end)

    def close(self) -> None:
        self.release()
        _close(self._listener)
        while self._late:
            _close(self._late.pop()[0])
        for end in self._frozen:
            _close(end)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server = socket.socket(socket.AF_UNIX)
                try:
                    server.connect(self._server)
                except OSError:  # the server is away
                    _close(client)
                    continue
                self._ends |= {client, server}
                writes = threading.Event()
                swallow = threading.Event()
                threading.Thread(target=self._up, args=(client, server, writes, swallow), daemon=True).start()
                threading.Thread(target=self._down, args=(client, server, swallow), daemon=True).start()

    def _up(
        self, client: socket.socket, server: socket.socket, writes: threading.Event, swallow: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(262144):
                if _WRITER in data:
                    writes.set()
                order = self._order
                if order is not None and writes.is_set() and order[1] in data:
                    self._order = None
                    self.cuts += 1
                    if order[0] == "after":
                        swallow.set()
                    elif order[0] == "unheard":
                        server.sendall(data)
                        self._frozen |= {client, server}
                    elif order[0] == "held":
                        self._released.wait()
                    elif order[0] == "late":
                        self._late.append((server, data))
                        _close(client)
                        return
                    else:
                        break
                if self.delay_s:
                    time.sleep(self.delay_s)
                if client not in self._frozen:
                    server.sendall(data)
        self._ends -= {client, server}
        _close(client)
        if server not in self._frozen:  # otherwise it does not notice the end either
            _close(server)

    def _down(self, client: socket.socket, server: socket.socket, swallow: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(262144):
                if server in self._frozen:
                    continue
                if swallow.is_set():
                    if _READY_FOR_QUERY in data:
                        break
                else:
                    client.sendall(data)
        _close(client)
        if not any(late is server for late, _ in self._late):
            _close(server)


def _close(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextmanager
def postgres_proxy(socket_directory: str) -> Iterator[PostgresProxy]:
    proxy = PostgresProxy(f"{socket_directory}/.s.PGSQL.5432")
    try:
        yield proxy
    finally:
        proxy.close()
