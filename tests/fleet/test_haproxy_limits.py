"""The limits of haproxy by client address, and whom it believes what a client's address is."""

import asyncio
import csv
import json
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import pytest

from deploy.haproxy.error_pages import CORS_HEADERS
from shared.core.addresses import address_key
from tests.fleet.haproxy_rig import Answer, Client, EchoWorker, Rig, haproxy_rig
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS

VERSIONS = b"/_matrix/client/versions"
CREATE_ROOM = b"/_matrix/client/v3/createRoom"
SYNC = b"/_matrix/client/v3/sync?user_id=@a:b"
SEND = b"/_matrix/client/v3/rooms/%21bees%3Ahive.example/send/m.room.message/t1"
#: Two clients, and a proxy.
ALICE, BOB, PROXY = "127.0.0.2", "127.0.0.3", "127.0.0.9"


@contextmanager
def running(**choices: Any) -> Iterator[Rig]:
    """Run haproxy with two persisters and one worker of the other types."""
    with (
        tempfile.TemporaryDirectory(prefix="skep") as directory,
        haproxy_rig(Path(directory), ENDPOINTS, POOLS, **choices) as rig,
    ):
        for name in ("event_persister1", "event_persister2", "client_api1", "synchrotron1", "federation_reader1"):
            rig.add(name[:-1], name)
        rig.deal("rooms", ["event_persister1"])
        rig.deal("users", ["client_api1"])
        rig.align()
        assert rig.align() == []
        yield rig


def client(rig: Rig, source: str) -> Client:
    return Client(rig.client.address[1], source)


def opened(rig: Rig, source: str) -> socket.socket:
    return socket.create_connection(rig.client.address, timeout=10, source_address=(source, 0))


def sent(rig: Rig, source: str, method: bytes, path: bytes, *fields: bytes, body: bytes = b"") -> socket.socket:
    """Send the beginning of a request on a new connection."""
    connection = opened(rig, source)
    lines = [method + b" " + path + b" HTTP/1.1", b"host: hive.example", *fields]
    connection.sendall(b"\r\n".join(lines) + b"\r\n\r\n" + body)
    return connection


def read(connection: socket.socket) -> Answer:
    response = HTTPResponse(connection)
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, headers, json.loads(response.read()))


def assert_limited(answer: Answer) -> None:
    assert (answer.status, answer.body["errcode"]) == (429, "M_LIMIT_EXCEEDED")
    assert answer.body["retry_after_ms"] == 1000 * int(answer.headers["retry-after"])
    for name, value in CORS_HEADERS.items():
        assert answer.headers[name.lower()] == value


def test_connections_of_an_address_are_limited() -> None:
    with running(connections_per_address=5) as rig, ExitStack() as stack:
        connections = [stack.enter_context(closing(opened(rig, ALICE))) for _ in range(8)]
        time.sleep(0.3)
        ended = 0
        for connection in connections:
            connection.setblocking(False)
            try:
                ended += connection.recv(1) == b""
            except ConnectionResetError:
                ended += 1
            except BlockingIOError:
                pass
        assert ended == 3
        assert client(rig, BOB).ask("GET", VERSIONS).status == 200


def test_requests_of_an_address_under_way_are_limited() -> None:
    with running(requests_per_address=5) as rig, ExitStack() as stack:
        rig.echo("client_api1").delay_s = 1.5
        waiting = [stack.enter_context(closing(sent(rig, ALICE, b"GET", VERSIONS))) for _ in range(8)]
        time.sleep(0.3)
        asked_s = time.monotonic()
        bob = stack.enter_context(closing(sent(rig, BOB, b"GET", VERSIONS)))
        answers = [read(connection) for connection in waiting]
        assert sorted(answer.status for answer in answers) == [200] * 5 + [429] * 3
        for answer in answers:
            if answer.status == 429:
                assert_limited(answer)
        assert read(bob).status == 200
        assert time.monotonic() - asked_s < 5
        # What is answered is under way no longer, also on connections that stay open.
        rig.echo("client_api1").delay_s = 0.0
        assert client(rig, ALICE).ask("GET", VERSIONS).status == 200


def test_request_rate_of_an_address_is_limited() -> None:
    with running(requests_per_s_per_address=2) as rig:
        alice = client(rig, ALICE)
        statuses = [alice.ask("GET", VERSIONS).status for _ in range(30)]
        assert statuses[:20] == [200] * 20
        assert statuses[21:] == [429] * 9
        assert_limited(alice.ask("GET", VERSIONS))
        assert client(rig, BOB).ask("GET", VERSIONS).status == 200


@pytest.mark.parametrize("framing", [b"content-length: 1000000", b"transfer-encoding: chunked"])
def test_large_bodies_of_an_address_are_limited(framing: bytes) -> None:
    """Each holds a place at a worker while it arrives. Small ones do not reach a worker before they are whole."""
    large = bytes(40_000) if b"length" in framing else b"9c40\r\n" + bytes(40_000)
    with running(large_bodies_per_address=3) as rig, ExitStack() as stack:
        uploads = [
            stack.enter_context(closing(sent(rig, ALICE, b"POST", CREATE_ROOM, framing, body=large))) for _ in range(5)
        ]
        statuses = []
        for upload in uploads:
            upload.settimeout(1.0)
            try:
                statuses.append(read(upload).status)
            except TimeoutError:
                statuses.append(0)  # a worker waits for the rest
        admitted = 0 if b"length" in framing else 200  # the rig's workers know no chunks
        assert sorted(statuses) == [admitted] * 3 + [429] * 2
        assert client(rig, ALICE).ask("POST", CREATE_ROOM).status == 200
        stack.enter_context(closing(sent(rig, BOB, b"POST", CREATE_ROOM, framing, body=large)))


def test_slow_small_bodies_reach_no_worker() -> None:
    """A thousand of them leave every place at the workers free."""
    with running(large_bodies_per_address=3) as rig, ExitStack() as stack:
        head = b"content-length: 20000"
        slow = [stack.enter_context(closing(sent(rig, ALICE, b"POST", CREATE_ROOM, head))) for _ in range(400)]
        began_s = time.monotonic()
        answered: list[int] = []
        while len(answered) < 3 and time.monotonic() - began_s < 20:
            for connection in slow:
                connection.send(b" ")
            time.sleep(1.0)
            assert client(rig, ALICE).ask("PUT", SEND).status == 200
            answered = [read(each).status for each in slow[:3]] if time.monotonic() - began_s > 10.5 else []
        assert answered == [408] * 3
        assert rig.echo("event_persister1").requests + rig.echo("event_persister2").requests < 30


def test_only_trusted_proxies_name_the_client() -> None:
    with running(trusted_proxies=(f"{PROXY}/32", "10.0.0.0/8"), requests_per_s_per_address=1) as rig:

        def seen_by(source: str, *said: str) -> Answer:
            fields = {"x-forwarded-for": ", ".join(said).encode()} if said else {}
            answer = client(rig, source).ask("GET", VERSIONS, fields)
            assert answer.status == 200
            return answer

        def address(source: str, *said: str) -> str:
            [found] = seen_by(source, *said).sent("x-forwarded-for")
            return found

        assert address(PROXY, "192.0.2.1") == "192.0.2.1"
        assert address(PROXY, "192.0.2.66", "192.0.2.2") == "192.0.2.2", "what the client said"
        assert address(PROXY, "192.0.2.66", "192.0.2.3", "10.1.2.3") == "192.0.2.3", "two proxies"
        assert address(PROXY, "2001:db8::7") == "2001:db8::7"
        assert address(PROXY) == PROXY
        assert address(PROXY, "nonsense") == PROXY
        assert address(ALICE, "192.0.2.1") == ALICE
        # Workers learn of proxies that are not trusted, and only of those.
        assert seen_by(ALICE, "192.0.2.1").sent("x-skep-unknown-proxy") == ["1"]
        assert seen_by(PROXY, "192.0.2.4").sent("x-skep-unknown-proxy") == []
        assert seen_by(ALICE).sent("x-skep-unknown-proxy") == []

        # Limits count the client, an IPv6 client by its network, and never the proxy.
        def statuses(*said: str) -> list[int]:
            proxy = client(rig, PROXY)
            return [proxy.ask("GET", VERSIONS, {"x-forwarded-for": each.encode()}).status for each in said]

        assert statuses(*(f"2001:db8:1::{number:x}" for number in range(12)))[-1] == 429
        assert statuses("2001:db8:1:0:ffff::1", "2001:db8:1:1::1") == [429, 200]
        assert statuses(*(f"::ffff:192.0.2.{number}" for number in range(100, 120))) == [200] * 20
        assert statuses(*["::ffff:192.0.2.8", "192.0.2.8"] * 6)[-1] == 429
        assert statuses(*(f"198.51.100.{number}" for number in range(30))) == [200] * 30


def test_ipv4_clients_of_a_listener_for_both_families_have_their_own_limits() -> None:
    """There an IPv4 address is mapped into IPv6, and all of those are in one network of 64 bits."""
    with running(client_host="[::]", requests_per_s_per_address=1, trusted_proxies=(f"{PROXY}/32",)) as rig:
        alice, bob, proxy = [client(rig, source) for source in (ALICE, BOB, PROXY)]
        assert [alice.ask("GET", VERSIONS).status for _ in range(12)] == [200] * 10 + [429] * 2
        assert bob.ask("GET", VERSIONS).status == 200
        assert proxy.ask("GET", VERSIONS, {"x-forwarded-for": b"192.0.2.1"}).sent("x-forwarded-for") == ["192.0.2.1"]
        address = bob.ask("GET", VERSIONS).sent("x-forwarded-for")[0]
        assert address_key(address) == BOB


def test_trusted_proxies_may_speak_the_proxy_protocol() -> None:
    with running(trusted_proxies=(f"{PROXY}/32",), proxy_protocol=True, connections_per_address=3) as rig:

        def ask(source: str, prefix: bytes) -> Answer:
            with closing(opened(rig, source)) as connection:
                connection.sendall(prefix + b"GET " + VERSIONS + b" HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                return read(connection)

        said = ask(PROXY, b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\n")
        assert said.sent("x-forwarded-for") == ["192.0.2.1"]
        assert said.sent("x-skep-unknown-proxy") == []
        assert ask(ALICE, b"").sent("x-forwarded-for") == [ALICE]
        with closing(opened(rig, ALICE)) as connection:
            connection.sendall(b"PROXY TCP4 192.0.2.1 192.0.2.9 1234 443\r\nGET / HTTP/1.1\r\n\r\n")
            assert connection.recv(100).startswith(b"HTTP/1.1 400 ")
        with ExitStack() as stack:
            ended = 0
            for _ in range(5):
                connection = stack.enter_context(closing(opened(rig, PROXY)))
                connection.sendall(b"PROXY TCP4 192.0.2.2 192.0.2.9 1234 443\r\n")
                connection.settimeout(0.3)
                try:
                    ended += connection.recv(1) == b""
                except ConnectionResetError:
                    ended += 1
                except TimeoutError:
                    pass
            assert ended == 2
            assert ask(PROXY, b"PROXY TCP4 192.0.2.3 192.0.2.9 1234 443\r\n").status == 200


def test_requests_to_a_process_without_a_lease_go_to_another_one() -> None:
    """As when a process is stopped: its connections stay open, and its successor owns the slots."""
    with running() as rig, ExitStack() as stack:
        first = rig.echo("event_persister1")
        first.delay_s = 60.0
        idempotent = stack.enter_context(closing(sent(rig, ALICE, b"PUT", SEND, b"content-length: 2", body=b"{}")))
        once = stack.enter_context(closing(sent(rig, ALICE, b"POST", CREATE_ROOM, b"content-length: 2", body=b"{}")))
        time.sleep(0.3)
        assert first.requests >= 1
        rig.echo("event_persister2").delay_s = 0.0
        del rig.workers["event_persister1"]
        rig.deal("rooms", ["event_persister2"])
        began_s = time.monotonic()
        rig.align()
        answer = read(idempotent)
        assert (answer.status, answer.body["worker"]) == (200, "event_persister2")
        assert time.monotonic() - began_s < 5
        assert read(once).status in (200, 502)  # whichever process it was sent to


def test_only_server_of_a_pool_is_not_down_after_a_failed_connection() -> None:
    """As in a burst of long polls, when its listener has no room for a moment."""
    with running() as rig:
        synchrotron = rig.echo("synchrotron1")
        assert isinstance(synchrotron, EchoWorker)
        assert client(rig, ALICE).ask("GET", SYNC).status == 200
        for _ in range(3):
            time.sleep(1.2)  # some checks pass
            port = synchrotron.port
            synchrotron.stop_listening()
            with ExitStack() as stack:
                # More than the idle connections to the server, so that some need a new one.
                polls = [stack.enter_context(closing(sent(rig, ALICE, b"GET", SYNC))) for _ in range(20)]
                time.sleep(0.1)
                synchrotron.start(port)
                assert [read(poll).status for poll in polls] == [200] * 20
        answer = asyncio.run(rig.runtime.ask("show stat")).removeprefix("# ").splitlines()
        [row] = [
            row for row in csv.DictReader(answer) if (row["pxname"], row["svname"]) == ("pool_sync", "synchrotron1")
        ]
        assert int(row["wretr"]) > 0, "no connection failed"
        assert (row["status"], row["chkdown"]) == ("UP", "0")


def test_draining_process_finishes_its_requests() -> None:
    with running() as rig:
        rig.echo("synchrotron1").delay_s = 0.8
        rig.add("synchrotron", "synchrotron2").delay_s = 0.8
        rig.align()
        with ExitStack() as stack:
            polls = [stack.enter_context(closing(sent(rig, ALICE, b"GET", SYNC))) for _ in range(6)]
            time.sleep(0.2)
            rig.draining.add("synchrotron1")
            rig.align()
            rig.align()
            assert [read(poll).status for poll in polls] == [200] * 6
