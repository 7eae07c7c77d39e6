"""Ways to configure Redis: by fields, by URL, with an ACL user, over TLS, and behind Sentinels, with real servers.

The bundled redis-server has no TLS, so a TLS relay runs in front of it.
"""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from deploy.local.identity import pick_port
from deploy.local.servers.redis import _server
from shared.config.sections import Redis
from tests.fix_fleet import ROOT

_LIMIT_S = 20.0


class Talker:
    """A process with a transport. lines: its output."""

    def __init__(self, **section: Any) -> None:
        self.lines: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.replication.bus_talker", json.dumps(section)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.strip())

    def count(self, what: str) -> int:
        return self.lines.count(what)

    def heard_since(self, mark: int) -> bool:
        """Return True if a number came back after these lines."""
        return any(line.isdigit() for line in self.lines[mark:])

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(10)


@pytest.fixture
def talk() -> Iterator[Callable[..., Talker]]:
    made: list[Talker] = []

    def make(**section: Any) -> Talker:
        made.append(Talker(**section))
        return made[-1]

    yield make
    for each in made:
        with contextlib.suppress(subprocess.TimeoutExpired):
            each.stop()
        each._process.kill()


def eventually(holds: Callable[[], object], limit_s: float = _LIMIT_S) -> float:
    """Return the seconds until a condition holds."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() < began + limit_s, "it never came to hold"
        time.sleep(0.02)
    return time.monotonic() - began


def _ask(port: int, *lines: str) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        answer = ""
        for line in lines:
            connection.sendall(line.encode() + b"\r\n")
            answer = connection.recv(65536).decode()
        return answer


def test_redis_by_fields_by_url_and_as_acl_user(redis_server: Redis, talk: Callable[..., Talker]) -> None:
    assert redis_server.password is not None
    password, port = redis_server.password.reveal(), redis_server.port
    user = "ACL SETUSER talker on >secret/word resetchannels &skep-*:* +@all allkeys"
    assert _ask(port, f"AUTH {password}", user).startswith("+OK")
    talkers = [
        talk(host="127.0.0.1", port=port, password=password),
        talk(url=f"redis://:{password}@127.0.0.1:{port}/3", channel_prefix="skep-db"),
        talk(host="127.0.0.1", port=port, username="talker", password="secret/word", channel_prefix="skep-acl"),
        talk(url=f"redis://talker:secret%2Fword@127.0.0.1:{port}", channel_prefix="skep-url"),
    ]
    refused = talk(host="127.0.0.1", port=port, password="wrong")
    for each in talkers:
        eventually(lambda each=each: each.heard_since(0))  # type: ignore[misc]
    # The connection breaks, as in a restart, and is made again.
    _ask(port, f"AUTH {password}", "CLIENT KILL TYPE pubsub", "CLIENT KILL TYPE normal")
    for each in talkers:
        eventually(lambda each=each: each.count("up") == 2)  # type: ignore[misc]
        mark = len(each.lines)
        eventually(lambda each=each, mark=mark: each.heard_since(mark))  # type: ignore[misc]
    assert refused.lines == []
    assert [each.stop() for each in talkers] == [0] * 4


def _certificate(path: Path) -> None:
    """Write a self-signed certificate for 127.0.0.1 and its key into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM) + private)


@contextlib.contextmanager
def _tls_relay(certificate: Path, port: int) -> Iterator[int]:
    """Yield the port of a relay with TLS for clients and without TLS for the server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    loop = asyncio.new_event_loop()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(pump(reader, server_writer), pump(server_reader, writer))

    server = loop.run_until_complete(asyncio.start_server(connected, "127.0.0.1", 0, ssl=context))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    yield server.sockets[0].getsockname()[1]
    loop.call_soon_threadsafe(loop.stop)
    thread.join(5)


def test_redis_over_tls_checks_certificate(redis_server: Redis, tmp_path: Path, talk: Callable[..., Talker]) -> None:
    """Connect with the right authority, by fields and by URL. With another one or none, nothing is sent."""
    assert redis_server.password is not None
    password = redis_server.password.reveal()
    right, wrong = tmp_path / "right.pem", tmp_path / "wrong.pem"
    _certificate(right)
    _certificate(wrong)
    with _tls_relay(right, redis_server.port) as port:
        url = f"rediss://:{password}@127.0.0.1:{port}"
        good = [
            talk(host="127.0.0.1", port=port, tls=True, ca_file=str(right), password=password),
            talk(url=url, ca_file=str(right), channel_prefix="skep-tls"),
        ]
        bad = [talk(url=url, ca_file=str(wrong)), talk(url=url)]
        for each in good:
            eventually(lambda each=each: each.heard_since(0))  # type: ignore[misc]
        assert [each.lines for each in bad] == [[], []]
        for each in (*good, *bad):
            each.stop()


@contextlib.contextmanager
def _redis(directory: Path, *lines: str, sentinel: bool = False) -> Iterator["subprocess.Popen[bytes]"]:
    directory.mkdir()
    config = directory / "redis.conf"
    config.write_text("\n".join((*lines, f"dir {directory}", "bind 127.0.0.1", "daemonize no")) + "\n")
    command = [_server(), str(config), *(["--sentinel"] if sentinel else [])]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


@pytest.mark.soak
def test_transport_follows_sentinel_failover(tmp_path: Path, talk: Callable[..., Talker]) -> None:
    """Kill the primary, then fail over back to it. One of the configured Sentinels does not exist."""
    first, second, sentinel = (pick_port("127.0.0.1") for _ in range(3))
    common = ("requirepass secret", "masterauth secret", 'save ""')
    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(_redis(tmp_path / "first", f"port {first}", *common))
        replica_of = f"replicaof 127.0.0.1 {first}"
        stack.enter_context(_redis(tmp_path / "second", f"port {second}", replica_of, *common))
        eventually(lambda: "master_link_status:up" in _try(second, "AUTH secret", "INFO replication"))
        watch = (
            f"sentinel monitor queen 127.0.0.1 {first} 1",
            "sentinel auth-pass queen secret",
            "sentinel down-after-milliseconds queen 500",
            "sentinel failover-timeout queen 3000",
            "requirepass watcher",
        )
        stack.enter_context(_redis(tmp_path / "sentinel", f"port {sentinel}", *watch, sentinel=True))
        eventually(lambda: "slaves=1" in _try(sentinel, "AUTH watcher", "INFO sentinel"))
        unused = pick_port("127.0.0.1")
        hosts = [f"127.0.0.1:{unused}", f"127.0.0.1:{sentinel}"]
        talker = talk(password="secret", sentinel={"hosts": hosts, "name": "queen", "password": "watcher"})
        eventually(lambda: talker.heard_since(0))
        primary.kill()
        primary.wait()
        mark = len(talker.lines)
        eventually(lambda: talker.count("up") == 2 and talker.heard_since(mark))
        stack.enter_context(_redis(tmp_path / "again", f"port {first}", f"replicaof 127.0.0.1 {second}", *common))
        eventually(lambda: "master_link_status:up" in _try(first, "AUTH secret", "INFO replication"))
        eventually(lambda: _try(sentinel, "AUTH watcher", "SENTINEL FAILOVER queen").startswith("+OK"))
        eventually(lambda: "role:master" in _try(first, "AUTH secret", "INFO replication"))
        mark = len(talker.lines)
        eventually(lambda: talker.count("up") >= 3 and talker.heard_since(mark))
        assert talker.stop() == 0


def _try(port: int, *lines: str) -> str:
    try:
        return _ask(port, *lines)
    except OSError:
        return ""
