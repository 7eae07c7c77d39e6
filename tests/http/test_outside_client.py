"""The client for strangers: the address that is connected to is checked, and no answer is without bounds."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from shared.core.addresses import AddressRules
from shared.core.errors import RemoteServerError
from shared.http.outside.client import AddressDenied, OutsideClient, OutsideLimits
from shared.metrics.outside import OutsideMetrics
from tests.rigs.certificates import CertificateAuthority

_LIMITS = OutsideLimits(connect_s=5, first_byte_s=5, total_s=20, body_bytes=10_000)
_OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


@dataclass
class Stranger:
    """A server that answers as the test says. requests: the heads that it got. connections: how many it got."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0


Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def stranger(
    answer: Answer | bytes = _OK, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Stranger]:
    found = Stranger()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        found.connections += 1
        try:
            while True:
                found.requests.append(await reader.readuntil(b"\r\n\r\n"))
                if isinstance(answer, bytes):
                    writer.write(answer)
                    await writer.drain()
                else:
                    await answer(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    found.port = server.sockets[0].getsockname()[1]
    try:
        yield found
    finally:
        server.close()


@asynccontextmanager
async def client(*allowed: str, ca_file: Path | None = None) -> AsyncIterator[OutsideClient]:
    rules = AddressRules(allowed=allowed)
    made = OutsideClient(rules, OutsideMetrics(CollectorRegistry()), user_agent="Skep/test", custom_ca_file=ca_file)
    try:
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]", "127.1"])
async def test_own_host_is_not_connected_to(host: str) -> None:
    async with stranger() as server, client() as asking:
        with pytest.raises(RemoteServerError):
            await asking.request("GET", f"http://{host}:{server.port}/", limits=_LIMITS)
        assert server.connections == 0


async def test_denied_address_is_named_in_the_error() -> None:
    async with client() as asking:
        with pytest.raises(AddressDenied, match=r"169\.254\.169\.254"):
            await asking.request("GET", "http://169.254.169.254/latest/meta-data", limits=_LIMITS)


async def test_allowed_network_is_connected_to() -> None:
    async with stranger() as server, client("127.0.0.0/8") as asking:
        answer = await asking.request("GET", f"http://localhost:{server.port}/a%2Fb?c=%20d", limits=_LIMITS)
        assert (answer.status, answer.body) == (200, b"{}")
        assert server.requests[0].startswith(b"GET /a%2Fb?c=%20d HTTP/1.1\r\n")
        assert b"user-agent: skep/test" in server.requests[0].lower()


async def test_connections_are_kept_and_redirects_are_not_followed() -> None:
    elsewhere = b"HTTP/1.1 302 Found\r\nlocation: http://169.254.169.254/\r\ncontent-length: 0\r\n\r\n"
    async with stranger(elsewhere) as server, client("127.0.0.0/8") as asking:
        for _ in range(3):
            answer = await asking.request("GET", f"http://127.0.0.1:{server.port}/", limits=_LIMITS)
            assert answer.status == 302
        assert server.connections == 1


async def test_certificate_must_have_the_name_that_is_asked_for(tmp_path: Path) -> None:
    authority = CertificateAuthority(tmp_path)
    tls = authority.server_context("a.example", "b.example", "127.0.0.1")
    async with stranger(tls=tls) as server, client("127.0.0.0/8", ca_file=authority.ca_file) as asking:
        url = f"https://127.0.0.1:{server.port}/"
        for name in ("a.example", "b.example", "a.example", None):
            answer = await asking.request("GET", url, certificate_name=name, limits=_LIMITS)
            assert answer.status == 200
        # A connection that was made for one name is used for no other name.
        assert server.connections == 3
        with pytest.raises(RemoteServerError, match=r"certificate is not valid.*c\.example"):
            await asking.request("GET", url, certificate_name="c.example", limits=_LIMITS)
    async with stranger(tls=tls) as server, client("127.0.0.0/8") as asking:
        with pytest.raises(RemoteServerError, match="certificate is not valid"):
            await asking.request("GET", f"https://127.0.0.1:{server.port}/", limits=_LIMITS)


async def _endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"3e8\r\n" + b"x" * 1000 + b"\r\n")
        await writer.drain()


async def _dripping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9000\r\n\r\n")
    while True:
        writer.write(b"x")
        await writer.drain()
        await asyncio.sleep(0.01)


async def _heads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"x-more: y\r\n" * 100)
        await writer.drain()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def _cut(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf")
    writer.close()


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (_endless, "more than 10000 bytes"),
        (_dripping, "less than 1000 bytes a second"),
        (_heads, "."),
        (_silent, "no answer in time"),
        (_cut, "Payload"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "."),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nxx", "compressed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nxx", "."),
    ],
)
async def test_answer_out_of_bounds_is_given_up(answer: Answer | bytes, told: str) -> None:
    limits = OutsideLimits(connect_s=5, first_byte_s=1, total_s=15, body_bytes=10_000, grace_s=0.2)
    async with stranger(answer) as server, client("127.0.0.0/8") as asking:
        with pytest.raises(RemoteServerError, match=told):
            await asking.request("GET", f"http://127.0.0.1:{server.port}/", limits=limits)


async def test_body_may_be_sent_and_read_in_parts() -> None:
    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
            chunk = await reader.readexactly(size + 2)
            writer.write(b"%x\r\n" % size + chunk)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    more = asyncio.Event()

    async def parts() -> AsyncIterator[bytes]:
        yield b"first"
        await more.wait()
        yield b"second"

    async with stranger(echo) as server, client("127.0.0.0/8") as asking:
        url = f"http://127.0.0.1:{server.port}/"
        async with asking.open("PUT", url, body=parts(), limits=_LIMITS) as answer:
            got = b""
            async for chunk in answer.chunks():
                got += chunk
                more.set()
        assert got == b"firstsecond"


async def test_connections_to_one_server_are_bounded() -> None:
    async with stranger(_silent) as server, client("127.0.0.0/8") as asking:
        limits = OutsideLimits(connect_s=1, first_byte_s=3, total_s=5)
        url = f"http://127.0.0.1:{server.port}/"
        calls = (asking.request("GET", url, limits=limits) for _ in range(40))
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, RemoteServerError) for each in answers)
        assert server.connections == 20
