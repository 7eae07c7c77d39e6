"""A connection stays open only after its request was read completely. RFC 9112, section 9.3.

Sends raw HTTP/1.1 to a worker's own listener, for every declared endpoint and every early refusal.
"""

import re
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPResponse

import pytest

from deploy.endpoint_table import all_endpoints
from shared.http.endpoint import Auth, Endpoint, paths_of
from shared.http.framing import PROXIED
from tests.http.listening_worker import MAX_BODY_BYTES, SECRET, ListeningWorker, listening_worker

ENDPOINTS = all_endpoints()
#: A server that loses count takes this for a separate request.
SMUGGLED = b"GET /_matrix/client/versions?smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
INTERNAL = ["/metrics", "/health/live", "/health/ready", "/_skep/rooms/!a:b/receive", "/_skep/unknown"]


@pytest.fixture(scope="module")
def worker() -> Iterator[ListeningWorker]:
    with listening_worker() as worker:
        yield worker


@dataclass(frozen=True, slots=True)
class Seen:
    """The first answer on a connection, and all bytes after it until the connection ended."""

    status: int
    connection: str | None
    body: bytes
    rest: bytes


def path_of(endpoint: Endpoint) -> str:
    return re.sub(r"\{\w+\??\}", "x", paths_of(endpoint)[0])


def head(method: str, path: str, **headers: str) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "host: hive.example"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def answers(port: int, first: bytes, *later: bytes) -> Seen:
    """Send `first`, read one answer, send `later`, then read until the worker closes or is silent."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(first)
        response = HTTPResponse(connection)
        response.begin()
        body = response.read()
        rest = b""
        connection.settimeout(0.5)
        try:
            for part in later:
                connection.sendall(part)
            while data := connection.recv(65536):
                rest += data
        except (TimeoutError, ConnectionError):
            pass
        return Seen(response.status, response.getheader("connection"), body, rest)


def assert_ended(seen: Seen, name: str) -> None:
    assert seen.connection == "close", f"{name}: an early answer ({seen.status}) kept the connection"
    assert seen.rest == b"", f"{name}: bytes of an unread body were answered as a request: {seen.rest[:200]!r}"


def for_each_endpoint(check: Callable[[Endpoint], None]) -> None:
    """Check all endpoints concurrently: most of the time is spent waiting for bodies that never come."""
    with ThreadPoolExecutor(32) as pool:
        list(pool.map(check, ENDPOINTS))


def test_body_beyond_the_limit_ends_the_connection(worker: ListeningWorker) -> None:
    def check(endpoint: Endpoint) -> None:
        limit = endpoint.body_limit_bytes or MAX_BODY_BYTES
        request = head(endpoint.method, path_of(endpoint), content_length=str(limit + 1), authorization="Bearer t")
        seen = answers(worker.port, request, SMUGGLED)
        assert seen.status == 413
        assert_ended(seen, endpoint.name)

    for_each_endpoint(check)


def test_wrong_method_ends_the_connection(worker: ListeningWorker) -> None:
    def check(endpoint: Endpoint) -> None:
        seen = answers(worker.port, head("PATCH", path_of(endpoint), content_length="3000"), SMUGGLED)
        assert seen.status in (404, 405)
        assert_ended(seen, endpoint.name)

    for_each_endpoint(check)


@pytest.mark.parametrize("framing", [{"content_length": "3000"}, {"transfer_encoding": "chunked"}], ids=str)
@pytest.mark.parametrize("path", ["/nowhere", "/_matrix/client/v3/nowhere", "/_skep/nowhere", "/health/live"])
def test_unknown_path_ends_the_connection(worker: ListeningWorker, path: str, framing: dict[str, str]) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        seen = answers(worker.port, head(method, path, **framing), SMUGGLED)
        assert_ended(seen, f"{method} {path}")


def test_expect_continue_without_continue_ends_the_connection(worker: ListeningWorker) -> None:
    request = head("POST", "/nowhere", content_length="10", expect="100-continue")
    assert_ended(answers(worker.port, request, SMUGGLED), "expect")


def test_closed_gate_ends_the_connection(worker: ListeningWorker) -> None:
    with listening_worker() as closed:
        closed.gate.close()
        request = head("POST", "/_matrix/client/v3/createRoom", content_length="3000")
        seen = answers(closed.port, request, SMUGGLED)
        assert seen.status == 503
        assert_ended(seen, "a closed gate")


@pytest.mark.parametrize("refusal", ["auth", "limit", "slot"])
def test_refusal_after_routing_keeps_requests_apart(worker: ListeningWorker, refusal: str) -> None:
    """A worker that refuses, before or after the body, closes the connection or reads exactly the body."""

    def check(endpoint: Endpoint) -> None:
        body = SMUGGLED * 3
        token = SECRET if endpoint.auth is Auth.INTERNAL else "t"
        request = head(
            endpoint.method,
            path_of(endpoint),
            content_length=str(len(body)),
            authorization=f"Bearer {token}",
            x_test_refusal=refusal,
        )
        with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
            connection.sendall(request)
            connection.settimeout(0.3)
            try:
                early = connection.recv(65536)
            except TimeoutError:
                connection.settimeout(10)
                connection.sendall(body)
                late = connection.recv(65536)
                assert late.count(b"HTTP/1.1 ") == 1, endpoint.name
                if b"connection: close" in late:  # an early answer of a slow machine
                    return
                connection.sendall(head("GET", "/_matrix/client/versions?next", connection="close"))
                rest = b""
                while data := connection.recv(65536):
                    rest += data
                assert rest.count(b"HTTP/1.1 ") == 1, endpoint.name
                assert b'"next"' in rest, endpoint.name
            else:
                assert b"connection: close" in early, endpoint.name

    for_each_endpoint(check)


def test_small_body_of_an_early_refusal_keeps_the_connection(worker: ListeningWorker) -> None:
    """A small body that arrives with a refused request is read, so that client mistakes stay cheap."""
    seen = answers(worker.port, head("POST", "/nowhere", content_length="2") + b"{}", head("GET", "/nowhere"))
    assert seen.connection is None
    assert seen.rest.count(b"HTTP/1.1 404") == 1


def test_long_upload_still_gets_its_early_answer(worker: ListeningWorker) -> None:
    """The worker keeps reading for a while, because a reset would overtake the answer."""
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
            connection.sendall(head("POST", "/nowhere", content_length=str(3 << 20)))
            connection.sendall(bytes(3 << 20))
            response = HTTPResponse(connection)
            response.begin()
            assert response.status == 404
            assert b"M_UNRECOGNIZED" in response.read()


def test_endless_upload_after_the_answer_is_cut_off(worker: ListeningWorker) -> None:
    with socket.create_connection(("127.0.0.1", worker.port), timeout=10) as connection:
        connection.sendall(head("POST", "/nowhere", transfer_encoding="chunked"))
        with pytest.raises(ConnectionError):
            for _ in range(100):
                connection.sendall(bytes(1 << 20))


@pytest.mark.parametrize("path", INTERNAL)
def test_proxied_connection_serves_no_internal_path(worker: ListeningWorker, path: str) -> None:
    authorization = {"authorization": f"Bearer {SECRET}"}
    method = "POST" if "receive" in path else "GET"
    proxied = {PROXIED.decode(): "1"}
    seen = answers(worker.port, head(method, path, **authorization, **proxied), SMUGGLED)
    assert (seen.status, seen.connection, seen.rest) == (404, "close", b"")
    later = answers(
        worker.port, head("GET", "/_matrix/client/versions", **proxied), head(method, path, **authorization)
    )
    assert later.status == 200
    assert later.rest.startswith(b"HTTP/1.1 400 ")  # without the mark it did not come through the proxy
    assert b"connection: close" in later.rest
    # Without the proxy's mark the path is served.
    assert answers(worker.port, head(method, path, **authorization)).status in ((404,) if "unk" in path else (200,))


def test_unmarked_request_ends_a_proxied_connection(worker: ListeningWorker) -> None:
    """Such a request can only be a smuggled one. A forged `X-Forwarded-For` is not trusted."""
    forged = head("GET", "/_matrix/client/versions", x_forwarded_for="10.0.0.1")
    seen = answers(worker.port, head("GET", "/_matrix/client/versions", **{PROXIED.decode(): "1"}), forged + forged)
    assert seen.rest.count(b"HTTP/1.1 ") == 1
    assert seen.rest.startswith(b"HTTP/1.1 400 ")
