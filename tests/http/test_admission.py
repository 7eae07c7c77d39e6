"""Requests before and while their body is read: authentication first, then a small, fast body, then a place.

Each test sends raw HTTP/1.1 to a worker's own listener.
"""

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from http.client import HTTPResponse

import orjson
import pytest

from deploy.endpoint_table import all_endpoints
from shared.config.sections import Limits
from shared.http.admission.bodies import OPEN_BODY_BYTES
from shared.http.endpoint import Auth
from tests.http.listening_worker import ListeningWorker, listening_worker
from tests.http.test_framing import answers, head, path_of

#: Small numbers, so that each limit is reached soon.
LIMITS = Limits(max_body_bytes=1 << 20, body_deadline_s=2.0, requests_per_user=5)
CREATE_ROOM = "/_matrix/client/v3/createRoom"
OPEN = [endpoint for endpoint in all_endpoints() if endpoint.auth in (Auth.NONE, Auth.OPTIONAL)]


@pytest.fixture(scope="module")
def worker() -> Iterator[ListeningWorker]:
    with listening_worker(limits=LIMITS) as worker:
        yield worker


def begun(port: int, announced: int, **headers: str) -> socket.socket:
    """Return a connection on which a request has announced a body, and sent two bytes of it."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.sendall(head("POST", CREATE_ROOM, content_length=str(announced), **headers) + b"{ ")
    return connection


def answer_of(connection: socket.socket) -> tuple[int, dict[str, object]]:
    response = HTTPResponse(connection)
    response.begin()
    return response.status, orjson.loads(response.read())


def test_stranger_is_refused_before_any_of_the_body_is_read(worker: ListeningWorker) -> None:
    for headers, status in (({}, 401), ({"authorization": "Bearer t", "x_test_refusal": "rate"}, 429)):
        with closing(begun(worker.port, 500_000, **headers)) as connection:
            began_s = time.monotonic()
            assert answer_of(connection)[0] == status
            assert time.monotonic() - began_s < LIMITS.body_deadline_s - 1


def test_strangers_may_send_little(worker: ListeningWorker) -> None:
    assert OPEN
    for endpoint in OPEN:
        request = head(endpoint.method, path_of(endpoint), content_length=str(OPEN_BODY_BYTES + 1))
        seen = answers(worker.port, request)
        assert (seen.status, orjson.loads(seen.body)["errcode"]) == (413, "M_TOO_LARGE"), endpoint.name
        chunked = head(endpoint.method, path_of(endpoint), transfer_encoding="chunked")
        chunk = b"%x\r\n" % (OPEN_BODY_BYTES + 1) + bytes(OPEN_BODY_BYTES + 1) + b"\r\n"
        assert answers(worker.port, chunked + chunk).status == 413, endpoint.name


def test_optional_token_allows_a_longer_body(worker: ListeningWorker) -> None:
    body = b" " * (OPEN_BODY_BYTES + 1)
    for endpoint in OPEN:
        if endpoint.auth is Auth.OPTIONAL:
            request = head(endpoint.method, path_of(endpoint), content_length=str(len(body)), authorization="Bearer t")
            assert answers(worker.port, request + body).status == 200, endpoint.name


def test_slow_body_is_refused_at_its_deadline(worker: ListeningWorker) -> None:
    """A byte now and then does not extend the time."""
    with closing(begun(worker.port, 100_000, authorization="Bearer t")) as connection:
        began_s = time.monotonic()
        connection.settimeout(0.2)
        received = b""
        while b"too slowly" not in received and time.monotonic() - began_s < 10:
            try:
                received += connection.recv(65536)
            except TimeoutError:
                connection.sendall(b" ")
        assert received.startswith(b"HTTP/1.1 408 ")
        assert b"connection: close" in received
        assert b"too slowly" in received


def test_each_user_has_so_many_requests_under_way(worker: ListeningWorker) -> None:
    most = LIMITS.requests_per_user
    assert most is not None
    with ExitStack() as stack:
        held = [stack.enter_context(closing(begun(worker.port, 100, authorization="Bearer t"))) for _ in range(most)]
        wait_until_under_way(worker, most)
        status, error = answer_of(stack.enter_context(closing(begun(worker.port, 100, authorization="Bearer t"))))
        assert (status, error["errcode"], error["retry_after_ms"]) == (429, "M_LIMIT_EXCEEDED", 1000)
        other = head("GET", "/_matrix/client/v3/account/whoami", authorization="Bearer other")
        assert answers(worker.port, other).status == 200
        for connection in held:
            connection.sendall(b" " * 98)
            assert answer_of(connection)[0] == 200
    # Nothing is held any more, after answers and after a client that went away.
    devices = head("GET", "/_matrix/client/v3/devices", authorization="Bearer t")
    for _ in range(2 * most):
        assert answers(worker.port, devices).status == 200
        begun(worker.port, 100, authorization="Bearer t").close()


def wait_until_under_way(worker: ListeningWorker, number: int) -> None:
    """Wait until so many requests are being served, apart from the one for the metrics."""
    wanted = f"skep_http_requests_under_way {number + 1}.0".encode()
    deadline_s = time.monotonic() + 10
    while wanted not in answers(worker.port, head("GET", "/metrics", connection="close")).body:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


def test_few_large_bodies_are_read_at_a_time() -> None:
    with listening_worker(limits=Limits(body_deadline_s=20.0)) as worker, ExitStack() as stack:
        statuses = []
        for _ in range(6):
            connection = stack.enter_context(closing(begun(worker.port, 200_000, authorization="Bearer t")))
            connection.sendall(bytes(100_000))
            connection.settimeout(1.0)
            try:
                statuses.append(answer_of(connection)[0])
            except TimeoutError:
                statuses.append(0)  # the worker waits for the rest
        assert statuses == [0] * 4 + [429] * 2
