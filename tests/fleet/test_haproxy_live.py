"""haproxy while the fleet changes (workers join, leave and die, slots move), and the requests that it refuses."""

import asyncio
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.haproxy.error_pages import CORS_HEADERS
from shared.core.access_tokens import format_access_token
from shared.core.slots import slot_of
from tests.fleet.haproxy_rig import Answer, Rig, haproxy_rig
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS
from workers.main.haproxy_runtime import HaproxyRuntime, ProxyError

ROOM = "!bees:hive.example"
SEND = b"/_matrix/client/v3/rooms/%21bees%3Ahive.example/send/m.room.message/t1"
STATE = b"/_matrix/client/v3/rooms/%21bees%3Ahive.example/state/m.room.topic"


@pytest.fixture
def rig() -> Iterator[Rig]:
    """Two persisters with alternating slots, and one worker of each other type."""
    with tempfile.TemporaryDirectory(prefix="skep") as directory, haproxy_rig(Path(directory), ENDPOINTS, POOLS) as rig:
        for name in ("event_persister1", "event_persister2", "client_api1", "synchrotron1", "federation_reader1"):
            rig.add(name[:-1], name)
        rig.deal("rooms", ["event_persister1", "event_persister2"])
        rig.deal("users", ["client_api1"])
        assert rig.align() == []
        assert rig.align() == []
        yield rig


def assert_matrix_error(answer: Answer, status: int, errcode: str) -> None:
    assert (answer.status, answer.body["errcode"]) == (status, errcode)
    assert answer.headers["content-type"] == "application/json"
    for name, value in CORS_HEADERS.items():
        assert answer.headers[name.lower()] == value


def test_joining_and_leaving_workers_need_no_file_change(rig: Rig) -> None:
    rig.add("synchrotron", "synchrotron2")
    persister = rig.add("event_persister", "event_persister3")
    rig.owners["rooms"][slot_of(ROOM)] = persister.name
    before = {server.name: server for server in rig.state().servers}
    assert rig.align() == []
    after = {server.name: server for server in rig.state().servers}
    assert before["event_persister1"].backend == after["event_persister1"].backend
    assert rig.client.ask("PUT", SEND).body["worker"] == "event_persister3"
    tokens = [format_access_token(slot, "x").encode() for slot in range(0, 1024, 50)]
    answers = [rig.client.ask("GET", b"/_matrix/client/v3/sync?access_token=" + token) for token in tokens]
    assert {answer.body["worker"] for answer in answers} == {"synchrotron1", "synchrotron2"}

    # A draining worker serves its slots as long as it owns them.
    rig.draining.add(persister.name)
    rig.align()
    assert rig.client.ask("PUT", SEND).body["worker"] == "event_persister3"
    rig.owners["rooms"][slot_of(ROOM)] = "event_persister1"
    rig.align()
    assert rig.client.ask("PUT", SEND).body["worker"] == "event_persister1"
    del rig.workers["synchrotron2"]
    rig.client.close()
    deadline = time.monotonic() + 12  # haproxy keeps idle connections for some seconds
    while rig.align() and time.monotonic() < deadline:
        time.sleep(0.3)
    assert {s.name for s in rig.state().servers if "3" in s.name or s.name == "synchrotron2"} == set()


def test_next_request_follows_a_moved_slot(rig: Rig) -> None:
    for turn in range(60):
        owner = f"event_persister{turn % 2 + 1}"
        rig.deal("rooms", [owner])
        rig.align()
        assert rig.client.ask("PUT", SEND).body["worker"] == owner


def test_slot_without_owner_goes_to_any_process_of_the_pool(rig: Rig) -> None:
    del rig.owners["rooms"][slot_of(ROOM)]
    rig.align()
    answer = rig.client.ask("PUT", SEND)
    assert answer.body["type"] == "event_persister"
    assert answer.sent("x-skep-slot") == [str(slot_of(ROOM))]


def test_one_align_repairs_lost_and_wrong_entries(rig: Rig) -> None:
    wanted = rig.state()
    here = next(s.backend for s in wanted.servers if s.name == "event_persister1" and s.backend.startswith("rooms"))
    slot = slot_of(ROOM)
    rig.tell(
        f"del map rooms.map {slot}",
        "add map rooms.map 7 rooms_9",
        "set map rooms.map 8 rooms_64",
        "del map users.map 1",
        "add map users.map bees nowhere",
        f"set server {here}/event_persister1 state maint",
        "set server pool_sync/synchrotron1 addr 127.0.0.1 port 9",
        "disable health pool_client/client_api1",
        "set server pool_client/client_api1 state drain",
        "add server pool_media/ghost 127.0.0.1:9",
        "enable server pool_media/ghost",
    )
    assert rig.client.ask("PUT", SEND).status == 200  # a missing map entry costs a hop, never an error
    assert rig.align() == []
    assert rig.state().maps.keys() == wanted.maps.keys()
    for name, entries in wanted.maps.items():
        assert sorted(rig.state().maps[name]) == sorted(entries)
    assert {(s.backend, s.name, s.address, s.checked) for s in rig.state().servers} == {
        (s.backend, s.name, s.address, s.checked) for s in wanted.servers
    }
    assert all(s.admin_state == 0 for s in rig.state().servers)
    assert rig.align() == []


def test_worker_that_returns_at_another_address_is_used(rig: Rig) -> None:
    worker = rig.echo("event_persister1")
    old = worker.address
    worker.kill()
    worker.start()
    assert worker.address != old
    rig.deal("rooms", ["event_persister1"])
    rig.align()
    deadline = time.monotonic() + 3
    while rig.client.ask("PUT", SEND).body["worker"] != "event_persister1":
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_request_to_killed_owner_is_answered_by_another_worker(rig: Rig) -> None:
    owner = rig.owners["rooms"][slot_of(ROOM)]
    assert rig.client.ask("PUT", SEND).body["worker"] == owner
    rig.echo(owner).kill()
    for _ in range(5):
        answer = rig.client.ask(
            "POST" if _ else "PUT", b"/_matrix/client/v3/join/%21bees%3Ahive.example" if _ else SEND
        )
        assert answer.status == 200 and answer.body["worker"] != owner


def test_only_idempotent_requests_are_retried_after_an_empty_answer(rig: Rig) -> None:
    owner = rig.echo(rig.owners["rooms"][slot_of(ROOM)])
    owner.break_next = 1
    assert rig.client.ask("PUT", SEND).status == 200
    assert owner.requests == 2
    # On a reused connection haproxy would close the client's connection instead, so this uses a new one.
    rig.client.close()
    owner.break_next = 1
    assert_matrix_error(rig.client.ask("PUT", STATE), 502, "M_UNKNOWN")  # a state event has no transaction id
    assert owner.requests == 3
    client_api = rig.echo("client_api1")
    rig.client.close()
    client_api.break_next = 1
    assert_matrix_error(rig.client.ask("DELETE", b"/_matrix/client/v3/devices/D?user_id=@a:b"), 502, "M_UNKNOWN")
    assert client_api.requests == 1


def test_pool_without_server_answers_503_with_retry_after(rig: Rig) -> None:
    answer = rig.client.ask("GET", b"/_matrix/client/v1/media/download/x/y")
    assert_matrix_error(answer, 503, "M_UNKNOWN")
    assert answer.headers["retry-after"] == "1"
    assert answer.body["retry_after_ms"] == 1000


def test_slow_server_gives_504(rig: Rig) -> None:
    rig.echo("synchrotron1").delay_s = 3.0
    assert_matrix_error(rig.client.ask("GET", b"/_matrix/client/v3/sync?user_id=@a:b"), 504, "M_UNKNOWN")


@pytest.mark.parametrize(
    "path",
    [
        b"/metrics",
        b"/health/ready",
        b"/health/",
        b"/_skep/v1/persist",
        b"/metrics?x",
        b"/_skep",
        b"/_matrix/federation/v1/send/1",
        b"/_matrix/key/v2/server",
    ],
)
def test_internal_paths_return_404_on_the_client_port(rig: Rig, path: bytes) -> None:
    for method in ("GET", "POST", "PUT"):
        assert_matrix_error(rig.client.ask(method, path), 404, "M_UNRECOGNIZED")


def test_probe_answers_while_each_type_of_worker_serves(rig: Rig) -> None:
    for port in (rig.client, rig.federation):
        assert (port.ask("GET", b"/health").status, port.ask("GET", b"/health?x").status) == (200, 200)
    servers = [f"{backend}/synchrotron1" for backend in ("pool_sync", "pool_room_reads")]
    rig.tell(*(f"set server {server} state maint" for server in servers))
    try:
        assert rig.client.ask("GET", b"/health").status == 503
        assert rig.federation.ask("GET", b"/health").status == 200
    finally:
        rig.tell(*(f"set server {server} state ready" for server in servers))
    assert rig.client.ask("GET", b"/health").status == 200


def test_federation_port_serves_federation_only(rig: Rig) -> None:
    for path in (b"/_matrix/client/versions", b"/metrics", b"/_skep/v1/persist", b"/", b"/_matrix/federationx"):
        assert_matrix_error(rig.federation.ask("GET", path), 404, "M_UNRECOGNIZED")
    assert rig.federation.ask("GET", b"/_matrix/federation/v1/nothing").body["type"] == "federation_reader"
    assert rig.federation.ask("GET", b"/.well-known/matrix/client").body["type"] == "client_api"


def test_clients_cannot_set_internal_headers(rig: Rig) -> None:
    headers = {
        "x-skep-slot": b"5",
        "X-Skep-Forwarded": b"1",
        "x-skep-": b"1",
        "x-skep-proxied": b"7",
        "x-request-id": b"evil",
        "x-forwarded-for": b"10.0.0.1",
        "x-forwarded-proto": b"https",
    }
    answers = [rig.client.ask("GET", b"/_matrix/client/versions", headers) for _ in range(2)]
    for answer in answers:
        own = [pair for pair in answer.body["headers"] if pair[0].startswith("x-skep")]
        assert own == [["x-skep-proxied", "1"], ["x-skep-unknown-proxy", "1"]]
        assert answer.sent("x-forwarded-for") == ["127.0.0.1"]
        assert answer.sent("x-forwarded-proto") == ["http"]
        assert len(answer.sent("x-request-id")) == 1
    assert len({answer.sent("x-request-id")[0] for answer in answers} | {"evil"}) == 3


def test_haproxy_answers_preflight_requests(rig: Rig) -> None:
    for path in (SEND, b"/_matrix/client/v3/unknown", b"/_matrix/media/v3/upload"):
        answer = rig.client.ask("OPTIONS", path, {"origin": b"https://app.example"})
        assert answer.status == 200
        for name, value in CORS_HEADERS.items():
            assert answer.headers[name.lower()] == value
    assert sum(rig.echo(name).requests for name in rig.workers) == 0


def test_ambiguous_requests_are_refused_before_any_worker(rig: Rig) -> None:
    """Only the status is checked: before version 3.3 haproxy has no configurable page for parse errors."""
    for raw in (b"GET /\xff HTTP/1.1", b"nonsense", b"GET http://b/ HTTP/1.1\r\nhost: a", b"GET /" + b"y" * 40000):
        with socket.create_connection(rig.client.address, timeout=5) as connection:
            connection.sendall(raw + b"\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 400"
    assert sum(rig.echo(name).requests for name in rig.workers) == 0


def test_http_1_0_get_with_a_body_reaches_a_worker(rig: Rig) -> None:
    """haproxy would answer it with a page of its own, which is no Matrix error."""
    with socket.create_connection(rig.client.address, timeout=5) as connection:
        connection.sendall(b"GET /_matrix/client/versions HTTP/1.0\r\nhost: a\r\ncontent-length: 2\r\n\r\n{}")
        assert connection.recv(12) == b"HTTP/1.1 200"


async def test_missing_or_silent_runtime_socket_raises_proxy_error(rig: Rig, tmp_path: Path) -> None:
    with pytest.raises(ProxyError):
        await HaproxyRuntime(str(tmp_path / "nothing")).ask("show info")
    async with await asyncio.start_server(lambda r, w: asyncio.sleep(5), "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ProxyError):
            await HaproxyRuntime(f"127.0.0.1:{port}", timeout_s=0.1).ask("show info")
    assert await rig.runtime.run(("no such command",))
    assert await rig.runtime.run(("set map rooms.map 1 none",)) == []
