"""Requests to strangers: nobody leads them into our network, and nobody makes them endless, slow or large."""

import asyncio
import datetime
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from shared.core.errors import RemoteServerError
from shared.http.strangers import client as client_module
from shared.http.strangers.addresses import AddressRules
from shared.http.strangers.client import StrangerClient, StrangerLimits

HOME = AddressRules(allowed=[ip_network("127.0.0.1/32")])
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]

# -- addresses


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1",
        "127.8.9.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.31.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::1",
        "::",
        "fe80::1%eth0",
        "fd00::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "2002:a00:1::1",
        "2001:0:4136:e378:8000:63bf:80ff:fffe",
        "a.example",
        "",
        "127.1",
        "0x7f000001",
    ],
)
def test_addresses_inside_are_refused_however_they_are_written(text: str) -> None:
    assert not AddressRules().allow(text)


@pytest.mark.parametrize("text", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2002:808:808::"])
def test_addresses_of_strangers_are_allowed(text: str) -> None:
    assert AddressRules().allow(text)


def test_operator_may_allow_and_deny_networks() -> None:
    rules = AddressRules(
        denied=[ip_network("10.0.0.0/8"), ip_network("9.0.0.0/8")], allowed=[ip_network("10.1.0.0/16")]
    )
    assert [rules.allow(text) for text in ("10.1.2.3", "10.2.2.3", "9.9.9.9", "8.8.8.8", "127.0.0.1")] == [
        True,
        False,
        False,
        True,
        True,
    ]
    assert rules.allow("::ffff:10.1.2.3") and not rules.allow("::ffff:10.2.2.3")


@given(st.ip_addresses(v=4))
def test_address_in_ipv6_is_as_good_as_the_address(address: Any) -> None:
    rules = AddressRules()
    assert rules.allow(f"::ffff:{address}") == rules.allow(str(address))
    assert rules.allow(f"64:ff9b::{address}") == rules.allow(str(address))


# -- a server with certificates of an authority of its own


class Authority:
    """A certificate authority, and servers whose certificates it signs."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
        self.certificate = self._sign(self._name, self._key.public_key(), x509.BasicConstraints(True, None))
        pem = self.certificate.public_bytes(serialization.Encoding.PEM).decode()
        self.trust = ssl.create_default_context(cadata=pem)

    def context(self, *names: str) -> ssl.SSLContext:
        """Return the server's side of TLS, with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName(
            [x509.IPAddress(ip_address(n)) if n[0].isdigit() else x509.DNSName(n) for n in names]
        )
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")])
        certificate = self._sign(subject, key.public_key(), alternatives)
        path = self._directory / f"{len(list(self._directory.iterdir()))}.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _sign(self, subject: x509.Name, key: Any, extension: x509.ExtensionType) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=1))
            .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        )
        if isinstance(extension, x509.BasicConstraints):
            builder = builder.add_extension(identifier, critical=False).add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                critical=True,
            )
        return builder.sign(self._key, hashes.SHA256())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    yield Authority(tmp_path_factory.mktemp("certificates"))


class Names:
    """A resolver that knows all names. answers: by look-up, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self._answers = list(answers)

    async def resolve(self, host: str, port: int = 0, family: int = 0) -> list[dict[str, Any]]:
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        return [{"hostname": host, "host": found, "port": port, "family": 2, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        """Nothing is open."""


class Server:
    """connections: how many were made. requests: the heads that arrived."""

    def __init__(self) -> None:
        self.port = 0
        self.connections = 0
        self.requests: list[bytes] = []


@asynccontextmanager
async def serving(serve: Serve, tls: ssl.SSLContext | None) -> AsyncIterator[Server]:
    """Serve on 127.0.0.1. serve: is called after the head of each request."""
    server = Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        try:
            while True:
                server.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await serve(reader, writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server.port = listening.sockets[0].getsockname()[1]
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def stranger_client(
    authority: Authority, *answers: str, rules: AddressRules = HOME, limits: StrangerLimits | None = None
) -> AsyncIterator[StrangerClient]:
    client = StrangerClient(rules, authority.trust, limits, resolver=Names(*answers or ("127.0.0.1",)))
    try:
        yield client
    finally:
        await client.close()


def answering(body: bytes, *more_headers: str) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = ["HTTP/1.1 200 OK", f"Content-Length: {len(body)}", *more_headers]
        writer.write("\r\n".join(head).encode() + b"\r\n\r\n" + body)

    return serve


# -- whom it reaches


async def test_certificate_is_checked_for_the_given_name_and_connections_are_kept_by_name(authority: Authority) -> None:
    tls = authority.context("matrix.example", "other.example")
    async with serving(answering(b'{"a":1}'), tls) as server, stranger_client(authority) as client:
        url = f"https://delegated.example:{server.port}/_matrix/key"
        for _ in range(3):
            answer = await client.request("GET", url, {"Host": "matrix.example"}, tls_name="matrix.example")
            assert (answer.status, answer.body) == (200, b'{"a":1}')
        assert server.connections == 1, "the connection is kept"
        assert b"Host: matrix.example\r\n" in server.requests[0]
        await client.request("GET", url, {"Host": "other.example"}, tls_name="other.example")
        assert server.connections == 2, "never shared with another name"
        for name in (None, "third.example"):
            with pytest.raises(RemoteServerError, match="Certificate"):
                await client.request("GET", url, {}, tls_name=name)
        assert len(server.requests) == 4


async def test_certificate_of_an_unknown_authority_is_refused(authority: Authority, tmp_path: Path) -> None:
    other = Authority(tmp_path)
    async with serving(answering(b"{}"), other.context("a.example")) as server, stranger_client(authority) as client:
        with pytest.raises(RemoteServerError, match="Certificate"):
            await client.request("GET", f"https://a.example:{server.port}/", {})
    lax = ssl.create_default_context()
    lax.check_hostname = False
    with pytest.raises(ValueError, match="verify"):
        StrangerClient(HOME, lax)


@pytest.mark.parametrize("host", ["a.example", "127.0.0.1", "[::ffff:127.0.0.1]", "localhost"])
async def test_request_into_our_network_is_not_made(authority: Authority, host: str) -> None:
    async with (
        serving(answering(b"{}"), authority.context("a.example", "127.0.0.1")) as server,
        stranger_client(authority, rules=AddressRules()) as client,
    ):
        with pytest.raises(RemoteServerError):
            await client.request("GET", f"https://{host}:{server.port}/", {}, tls_name="a.example")
        assert server.connections == 0


async def test_name_that_changes_its_address_leads_nowhere(authority: Authority) -> None:
    """The check is made when the socket is opened. There is no time between it and the connection."""
    tls = authority.context("a.example")
    async with (
        serving(answering(b"{}", "Connection: close"), tls) as server,
        stranger_client(authority, "127.0.0.1", "127.0.0.2") as client,
    ):
        url = f"https://a.example:{server.port}/"
        assert (await client.request("GET", url, {})).status == 200
        client._session.connector.clear_dns_cache()  # type: ignore[union-attr]
        with pytest.raises(RemoteServerError, match=r"127\.0\.0\.2 is not an address of a stranger"):
            await client.request("GET", url, {})


async def test_redirects_are_followed_only_when_asked_and_each_is_checked(authority: Authority) -> None:
    where = ""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if b"GET /there " in server.requests[-1]:
            await answering(b"found")(reader, writer)
        else:
            writer.write(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())

    async with (
        serving(serve, authority.context("a.example", "127.0.0.2")) as server,
        stranger_client(authority) as client,
    ):
        url = f"https://a.example:{server.port}/"
        where = "/there"
        assert (await client.request("GET", url, {})).status == 302
        found = await client.get_following(url, {}, max_body_bytes=100, total_s=10)
        assert (found.status, found.body) == (200, b"found")
        port = server.port
        elsewhere = [f"https://127.0.0.2:{port}/there", f"http://a.example:{port}/there", url, "file:///x", "https://"]
        for place in elsewhere:
            where = place
            with pytest.raises(RemoteServerError):
                await client.get_following(url, {}, max_body_bytes=100, total_s=10)


# -- what it takes


async def test_large_answer_is_given_up_and_a_streamed_one_is_not_held(authority: Authority) -> None:
    tls = authority.context("a.example")
    async with serving(answering(b"x" * 300_000), tls) as server, stranger_client(authority) as client:
        url = f"https://a.example:{server.port}/"
        with pytest.raises(RemoteServerError, match="more than 100000 bytes"):
            await client.request("GET", url, {}, max_body_bytes=100_000)
        async with client.stream("GET", url, {}) as answer:
            sizes = [len(chunk) async for chunk in answer.chunks]
        assert sum(sizes) == 300_000 and max(sizes) < 300_000


async def test_compressed_answer_is_not_decompressed(authority: Authority) -> None:
    bomb = b"\x1f\x8b" + b"x" * 50
    async with (
        serving(answering(bomb, "Content-Encoding: gzip"), authority.context("a.example")) as server,
        stranger_client(authority) as client,
    ):
        answer = await client.request("GET", f"https://a.example:{server.port}/", {})
        assert answer.body == bomb
        assert b"Accept-Encoding" not in server.requests[0]


async def test_endless_heads_are_given_up(authority: Authority) -> None:
    async def long_line(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000)

    async def many(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X%d: y\r\n" % n for n in range(5000)) + b"\r\n")

    for serve in (long_line, many):
        async with serving(serve, authority.context("a.example")) as server, stranger_client(authority) as client:
            with pytest.raises(RemoteServerError):
                await client.request("GET", f"https://a.example:{server.port}/", {})


async def test_answer_that_never_begins_is_given_up(authority: Authority) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.Event().wait()

    limits = StrangerLimits(first_byte_s=0.2)
    async with (
        serving(silent, authority.context("a.example")) as server,
        stranger_client(authority, limits=limits) as client,
    ):
        with pytest.raises(RemoteServerError, match="in time"):
            await client.request("GET", f"https://a.example:{server.port}/", {})


async def test_answer_that_trickles_is_given_up(authority: Authority, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then keeps every other time limit happy."""

    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    monkeypatch.setattr(client_module, "_RATE_WINDOW_S", 0.3)
    async with (
        serving(trickle, authority.context("a.example")) as server,
        stranger_client(authority, limits=StrangerLimits(total_s=60.0)) as client,
    ):
        with pytest.raises(RemoteServerError, match="too slowly"):
            await client.request("GET", f"https://a.example:{server.port}/", {})


async def test_connections_to_one_host_are_limited(authority: Authority) -> None:
    may_answer = asyncio.Event()

    async def waiting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await may_answer.wait()
        await answering(b"{}")(reader, writer)

    limits = StrangerLimits(connections_per_host=2)
    async with (
        serving(waiting, authority.context("a.example")) as server,
        stranger_client(authority, limits=limits) as client,
    ):
        url = f"https://a.example:{server.port}/"
        asked = [asyncio.create_task(client.request("GET", url, {})) for _ in range(6)]
        while len(server.requests) < 2:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert server.connections == 2
        may_answer.set()
        assert [answer.status for answer in await asyncio.gather(*asked)] == [200] * 6
        assert server.connections == 2


async def test_body_may_be_streamed_and_the_path_is_sent_as_it_is(authority: Authority) -> None:
    received = b""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        while (size := int(await reader.readuntil(b"\r\n"), 16)) > 0:
            received += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readexactly(2)
        await answering(b"{}")(reader, writer)

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"0123456789"

    async with serving(serve, authority.context("a.example")) as server, stranger_client(authority) as client:
        url = f"https://a.example:{server.port}/rooms/%21a%3Ab/%2F?x=%2B"
        async with client.stream("PUT", url, {}, parts()) as answer:
            assert answer.status == 200
        assert received == b"0123456789" * 3
        assert server.requests[0].startswith(b"PUT /rooms/%21a%3Ab/%2F?x=%2B HTTP/1.1\r\n")


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", b"nonsense\r\n\r\n"])
async def test_broken_answers_are_the_strangers_fault(authority: Authority, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        raise ConnectionResetError

    async with serving(serve, authority.context("a.example")) as server, stranger_client(authority) as client:
        with pytest.raises(RemoteServerError):
            await client.request("GET", f"https://a.example:{server.port}/", {})
    async with stranger_client(authority) as client:
        for url in (f"https://a.example:{server.port}/", "https://a.example:99999/", "nonsense", "https:///x"):
            with pytest.raises(RemoteServerError):
                await client.request("GET", url, {})
