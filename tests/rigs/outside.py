"""Other servers as tests need them: real TLS servers on this machine, under names of their own.

Names lead to this machine through a resolver of the rig, since no test may depend on the DNS of the world.
"""

import asyncio
import itertools
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import orjson
from aiohttp.abc import AbstractResolver, ResolveResult
from prometheus_client import CollectorRegistry

from shared.core.addresses import AddressRules
from shared.core.signing.keys import SigningKey, generate_signing_key
from shared.core.wire.server_keys import build_server_keys
from shared.http.outside.client import OutsideClient
from shared.metrics.outside import OutsideMetrics
from tests.rigs.certificates import CertificateAuthority


@dataclass(frozen=True)
class PeerRequest:
    """A request that a peer got. body: its decoded JSON, None without a body."""

    method: str
    uri: str
    headers: dict[str, str]
    body: Any


#: (status, answer) or (status, answer, headers). answer: bytes, or a value to encode.
PeerAnswer: TypeAlias = tuple[int, Any] | tuple[int, Any, dict[str, str]]
Handler: TypeAlias = Callable[[PeerRequest], Awaitable[PeerAnswer] | PeerAnswer]


@dataclass
class Peer:
    """A server of somebody else. requests: those it got."""

    name: str
    port: int
    key: SigningKey
    requests: list[PeerRequest] = field(default_factory=list)

    def published_keys(self, valid_until_ms: int) -> dict[str, Any]:
        return build_server_keys(self.name, [self.key], [], valid_until_ms)

    def asked(self, uri: str) -> int:
        """Return how often a path was asked for."""
        return sum(each.uri.partition("?")[0] == uri for each in self.requests)


class OutsideWorld(AbstractResolver):
    """Peers, their certificates, and the names that lead to them."""

    def __init__(self, directory: Path) -> None:
        self.authority = CertificateAuthority(directory)
        #: (name, port) -> the port on this machine. Every other address is refused.
        self._ports: dict[tuple[str, int], int] = {}
        self._files = itertools.count()

    def lead(self, name: str, port: int, to: int) -> None:
        """Let a name and port lead to a port of this machine."""
        self._ports[name, port] = to

    def client(self) -> OutsideClient:
        """Return a client that may connect to this machine and trusts the world's authority."""
        return OutsideClient(
            AddressRules(allowed=["127.0.0.0/8"]),
            OutsideMetrics(CollectorRegistry()),
            user_agent="Skep/test",
            custom_ca_file=self.authority.ca_file,
            resolver=self,
        )

    @asynccontextmanager
    async def peer(
        self,
        name: str,
        handler: Handler,
        *,
        ports: Sequence[int] = (8448,),
        certificate_for: Sequence[str] = (),
    ) -> AsyncIterator[Peer]:
        """Run a peer.

        name: "" for "localhost" and its port, which leads to it without this resolver.
        ports: those at which its name leads to it.
        certificate_for: other names than its own.
        """
        number = next(self._files)
        peer = Peer(name, 0, generate_signing_key(f"{name}{number}".encode().rjust(32, b".")[-32:], "k1"))

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    request = await _read(reader)
                    peer.requests.append(request)
                    answer = handler(request)
                    await _write(writer, await answer if isinstance(answer, Awaitable) else answer)
            writer.close()

        tls = self.authority.server_context(
            *(certificate_for or (name or "localhost",)), name_of_file=f"{name}-{len(self._ports)}"
        )
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        peer.port = server.sockets[0].getsockname()[1]
        peer.name = name or f"localhost:{peer.port}"
        for port in ports:
            self.lead(name, port, peer.port)
        try:
            yield peer
        finally:
            server.close()
            for port in ports:
                self._ports.pop((name, port), None)

    # aiohttp's resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = self._ports.get((host, port))
        if found is None:
            raise OSError(f"no such name: {host}")
        return [
            ResolveResult(
                hostname=host, host="127.0.0.1", port=found, family=socket.AF_INET, proto=0, flags=socket.AI_NUMERICHOST
            )
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


async def _read(reader: asyncio.StreamReader) -> PeerRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.rstrip().split("\r\n")
    method, uri, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return PeerRequest(method, uri, headers, orjson.loads(body) if body else None)


async def _write(writer: asyncio.StreamWriter, answer: PeerAnswer) -> None:
    status, content, *more = answer
    body = content if isinstance(content, bytes) else orjson.dumps(content)
    headers = {"content-length": str(len(body)), **(more[0] if more else {})}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {status} X\r\n{lines}\r\n".encode() + body)
    await writer.drain()
