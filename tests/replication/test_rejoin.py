"""A process that lost its lease drops its memory and rejoins, with the same pid and port and a new lease."""

import asyncio
import http.client
import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest

from replication.process.incarnation import Ended
from replication.process.lifecycle import MAX_FAILURES, rejoin_delay_s, run_incarnations
from shared.http.asgi import send_response
from shared.http.gate import Gate
from shared.http.request import Response
from shared.storage.engine.pool import SESSION_LIMITS, connector
from tests.fix_fleet import RunningFleet, run_fleet
from tests.fix_patience import Patience
from tests.fix_servers import TestDatabase
from tests.fleet.people import CLIENT, Person, register
from tests.fleet.raw_http import Answer, call, request_bytes
from tests.replication.postgres_proxy import PostgresProxy, postgres_proxy
from tests.rigs.waiting import wait_until
from tests.room_checks import assert_rooms_agree

pytestmark = pytest.mark.fleet
_LIMIT_S = 20.0
#: The limit of section 9 for a worker's slots, doubled for a shared machine.
_SERVES_AGAIN_S = 8.0


@pytest.fixture(scope="module")
def proxy(postgres_module: TestDatabase) -> Iterator[PostgresProxy]:
    with postgres_proxy(postgres_module.section.hosts[0]) as running:
        yield running


@pytest.fixture(scope="module")
def cuttable(postgres_module: TestDatabase, proxy: PostgresProxy) -> Iterator[RunningFleet]:
    """A fleet of one worker of each type and a second main, with short limits for dead processes."""
    section = postgres_module.section
    dsn = f"postgresql://{section.user}@127.0.0.1:{proxy.port}/{section.name}?sslmode=disable"
    yield from run_fleet(
        {
            "database": {"dsn": dsn, "connections": 4},
            "fleet": {"main": 2, "event_persister": 1, "synchrotron": 1},
            "replication": {"heartbeat_s": 0.2, "dead_after_s": 1.0},
        }
    )


@pytest.fixture(scope="module")
def alice(cuttable: RunningFleet) -> Person:
    person = register(cuttable, "alice")
    wait_until(lambda: person.call("POST", "/createRoom", {}).status == 200)
    return person


def sql(postgres: TestDatabase, statement: str, *args: object) -> list[Any]:
    async def ask() -> list[Any]:
        conn = await asyncpg.connect(postgres.dsn)
        try:
            return list(await conn.fetch(statement, *args))
        finally:
            await conn.close()

    return asyncio.run(ask())


def leases_of(postgres: TestDatabase) -> dict[str, int]:
    rows = sql(postgres, "SELECT process, lease FROM leases JOIN heartbeats USING (lease) WHERE NOT revoked AND ready")
    return {row["process"]: row["lease"] for row in rows}


def texts_of(person: Person, room_id: str) -> list[tuple[str, str]]:
    page = person.ask("GET", f"/rooms/{quote(room_id)}/messages?dir=f&limit=100")
    return [(e["event_id"], e["content"]["body"]) for e in page["chunk"] if e["type"] == "m.room.message"]


def test_processes_rejoin_after_all_connections_hang(
    cuttable: RunningFleet, postgres_module: TestDatabase, proxy: PostgresProxy, alice: Person, patience: Patience
) -> None:
    """All connections of all processes hang, as behind a firewall that lost its state."""
    room_id = alice.create_room()
    assert alice.send(room_id, "h0", {"msgtype": "m.text", "body": "before"}).status == 200
    before = leases_of(postgres_module)
    pids = {name: each["pid"] for name, each in cuttable.processes().items()}
    proxy.freeze()
    began = time.monotonic()
    answers = []

    def sent() -> bool:
        answers.append(alice.send(room_id, "h1", {"msgtype": "m.text", "body": "after"}))
        assert answers[-1].status in (200, 502, 503), answers[-1]
        return answers[-1].status == 200

    wait_until(sent)
    wait_until(lambda: set(leases_of(postgres_module)) == set(before))
    wait_until(lambda: alice.call("GET", f"/rooms/{quote(room_id)}/messages?dir=f").status == 200)
    print(f"all serve again after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < patience(_SERVES_AGAIN_S)
    assert [text for _, text in texts_of(alice, room_id)] == ["before", "after"]
    assert {name: each["pid"] for name, each in cuttable.processes().items()} == pids
    asyncio.run(assert_rooms_agree(postgres_module.dsn))


@pytest.mark.parametrize("when", ["held", "unheard", "before", "after", "late"])
def test_persister_rejoins_after_statement_without_answer(
    cuttable: RunningFleet,
    postgres_module: TestDatabase,
    proxy: PostgresProxy,
    alice: Person,
    when: str,
    patience: Patience,
) -> None:
    """Nothing is guessed, and a retry finds the stored event. Architecture page, section 3, "Unknown outcome"."""
    room_id = alice.create_room()
    first = alice.send(room_id, "t0", {"msgtype": "m.text", "body": "first"})
    assert first.status == 200
    worker = cuttable.processes()["event_persister-1"]
    lease = leases_of(postgres_module)["event_persister-1"]
    target = f"{CLIENT}/rooms/{quote(room_id, safe='')}/send/m.room.message/cut"
    cuts = proxy.cuts
    if when == "held":
        proxy.hold(b"cut me")
    else:
        proxy.cut(when, b"cut me")
    began = time.monotonic()

    def send() -> Answer:
        return call(
            f"http://{worker['address']}",
            "PUT",
            target,
            token=alice.token,
            body={"msgtype": "m.text", "body": "cut me"},
        )

    refused = send()
    assert proxy.cuts == cuts + 1
    assert (refused.status, refused.header("retry-after") is not None) == (503, True), refused
    stored = sql(
        postgres_module,
        "SELECT event_id FROM events WHERE txn_id = 'cut' AND room_nid = ("
        "SELECT room_nid FROM rooms WHERE room_id = $1)",
        room_id,
    )
    assert len(stored) == (when in ("after", "unheard"))
    answers = []

    def answered() -> bool:
        answers.append(send())
        assert answers[-1].status in (200, 503), answers[-1]
        return answers[-1].status == 200

    wait_until(answered)
    assert time.monotonic() - began < patience(_SERVES_AGAIN_S)
    print(f"{when}: serves again after {time.monotonic() - began:.1f} s")
    proxy.release()
    proxy.deliver()
    if when in ("after", "unheard"):
        assert answers[-1].json()["event_id"] == stored[0]["event_id"]
    assert send().json() == answers[-1].json()
    # haproxy learns of the new incarnation a little later.
    wait_until(lambda: alice.send(room_id, "t1", {"msgtype": "m.text", "body": "last"}).status == 200)
    assert [text for _, text in texts_of(alice, room_id)] == ["first", "cut me", "last"]
    # The same process with another lease.
    assert cuttable.processes()["event_persister-1"] == worker
    assert leases_of(postgres_module)["event_persister-1"] > lease
    metrics = call(f"http://{worker['address']}", "GET", "/metrics").body
    asyncio.run(assert_rooms_agree(postgres_module.dsn))
    assert any(line.startswith(b"skep_rejoins_total") and not line.endswith(b" 0.0") for line in metrics.splitlines())


def test_paused_processes_rejoin(cuttable: RunningFleet, postgres_module: TestDatabase, alice: Person) -> None:
    """Every worker type rejoins. Architecture page, section 9: "a worker paused, then resumed: fenced, it rejoins"."""
    room_id = alice.create_room()
    assert alice.send(room_id, "s0", {"msgtype": "m.text", "body": "before"}).status == 200
    since = alice.ask("GET", "/sync?timeout=0")["next_batch"]
    [leader] = sql(postgres_module, "SELECT process FROM leases JOIN duties ON holder = lease WHERE duty = 'main'")
    judge = "main-2" if leader["process"] == "main-1" else "main-1"
    before = leases_of(postgres_module)
    workers = {name: each for name, each in cuttable.processes().items() if name in before and name != judge}
    assert len({each["type"] for each in workers.values()}) == 8
    pending = {
        "synchrotron-1": request_to("GET", f"{CLIENT}/sync?timeout=30000&since={since}", alice.token),
        "event_persister-1": request_to(
            "PUT",
            f"{CLIENT}/rooms/{quote(room_id, safe='')}/send/m.room.message/s1",
            alice.token,
            b'{"msgtype":"m.text","body":"stale"}',
        ),
        "client_api-1": request_to("GET", f"{CLIENT}/account/whoami", alice.token),
    }
    under_way = opened(workers["synchrotron-1"]["address"], pending["synchrotron-1"])
    time.sleep(0.3)
    try:
        for each in workers.values():
            os.kill(each["pid"], signal.SIGSTOP)
        # They read the data in their sockets before they know how long they were paused.
        waiting = [opened(workers[name]["address"], request) for name, request in pending.items()]
        wait_until(lambda: set(leases_of(postgres_module)) == {judge})
    finally:
        for each in workers.values():
            os.kill(each["pid"], signal.SIGCONT)
    with ThreadPoolExecutor() as pool:
        for answer in pool.map(answer_of, [under_way, *waiting]):
            assert (answer.status, answer.header("retry-after") is not None) == (503, True), answer
    wait_until(lambda: set(leases_of(postgres_module)) == set(before))
    after = leases_of(postgres_module)
    assert {name for name in before if after[name] == before[name]} == {judge}
    wait_until(lambda: alice.send(room_id, "s1", {"msgtype": "m.text", "body": "after"}).status == 200)
    wait_until(lambda: alice.call("GET", f"/rooms/{quote(room_id)}/messages?dir=f").status == 200)
    wait_until(lambda: alice.call("GET", f"/sync?timeout=0&since={since}").status == 200)
    assert [text for _, text in texts_of(alice, room_id)] == ["before", "after"]
    synced = alice.ask("GET", f"/sync?timeout=0&since={since}")
    events = synced["rooms"]["join"][room_id]["timeline"]["events"]
    assert [event["content"]["body"] for event in events] == ["after"]
    assert {name: each["pid"] for name, each in cuttable.processes().items() if name in workers} == {
        name: each["pid"] for name, each in workers.items()
    }
    wait_until(lambda: call(cuttable.federation_url, "GET", "/_matrix/federation/v1/version").status == 200)


async def test_connection_with_lost_packets_breaks_soon(proxy: PostgresProxy, postgres_module: TestDatabase) -> None:
    """The operating system does it, since both ends are configured for it."""
    section = postgres_module.section
    dsn = f"postgresql://{section.user}@127.0.0.1:{proxy.port}/{section.name}?sslmode=disable"
    conn = await connector(dsn, pgbouncer=False, settings=SESSION_LIMITS)()
    try:
        own = conn._transport.get_extra_info("socket")  # type: ignore[attr-defined]
        assert own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert own.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 4000
        idle_s = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE)
        between_s = own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
        assert idle_s + between_s * own.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) <= 4
        shown = await conn.fetch("SELECT name, setting FROM pg_settings WHERE source = 'client'")
        assert {"tcp_user_timeout", "tcp_keepalives_idle"} <= {row["name"] for row in shown}
    finally:
        await conn.close()


def request_to(method: str, target: str, token: str, body: bytes = b"") -> bytes:
    return request_bytes(method, target, headers={"Authorization": f"Bearer {token}"}, body=body)


def opened(address: str, request: bytes) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)), timeout=_LIMIT_S)
    connection.sendall(request)
    return connection


def answer_of(connection: socket.socket) -> Answer:
    with connection:
        response = http.client.HTTPResponse(connection)
        response.begin()
        headers = tuple((name.lower(), value) for name, value in response.getheaders())
        return Answer(response.status, headers, response.read())


async def test_process_that_keeps_losing_its_lease_ends() -> None:
    delays: list[float] = []
    lives: list[int] = []

    async def wait(delay: float) -> None:
        delays.append(delay)

    async def live(rejoins: int) -> Ended:
        lives.append(rejoins)
        if len(lives) == 3:
            return Ended(fenced=True, served_s=100.0)  # a success resets the count
        if rejoins % 2:
            raise OSError("the database is away")
        return Ended(fenced=True, served_s=1.0)

    assert await run_incarnations(live, asyncio.Event(), wait) == 1
    assert lives == list(range(3 + MAX_FAILURES))
    assert delays[0] == 0 and delays[2] == 0
    assert delays[-1] > 3 and 20 < sum(delays) < 60


async def test_error_of_first_incarnation_is_raised() -> None:
    async def live(rejoins: int) -> Ended:
        raise OSError("no database")

    async def wait(delay: float) -> None:
        raise AssertionError("nothing to wait for")

    with pytest.raises(OSError, match="no database"):
        await run_incarnations(live, asyncio.Event(), wait)


@pytest.mark.parametrize(("fenced", "code"), [(False, 0), (True, 1)])
async def test_stop_ends_the_process(fenced: bool, code: int) -> None:
    stop = asyncio.Event()

    async def live(rejoins: int) -> Ended:
        stop.set()
        return Ended(fenced, 1.0)

    async def wait(delay: float) -> None:
        raise AssertionError("the process did not stop")

    assert await run_incarnations(live, stop, wait) == code


def test_rejoin_delay_grows_to_its_limit() -> None:
    assert rejoin_delay_s(0) == rejoin_delay_s(1) == 0
    assert all(rejoin_delay_s(failures) <= 6.0 for failures in range(100))
    assert rejoin_delay_s(5) > rejoin_delay_s(2)


async def test_gate_refuses_answers_from_void_memory() -> None:
    """Answers do not leave the process once its memory is void."""
    gate, let_go = Gate(), asyncio.Event()
    good = True

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["raw_path"] == b"/slow":
            await let_go.wait()
        await send_response(send, Response(b"{}"))

    async def ask(path: bytes) -> tuple[int, bool]:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        await gate({"type": "http", "raw_path": path, "method": "GET"}, None, send)  # type: ignore[arg-type]
        assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
        return sent[0]["status"], b"retry-after" in dict(sent[0]["headers"])

    assert await ask(b"/x") == (503, True)
    assert (await ask(b"/health/live"))[0] == 200
    assert (await ask(b"/health/ready"))[0] == 503
    gate.open(application, lambda: good)
    assert await ask(b"/x") == (200, False)
    slow = asyncio.create_task(ask(b"/slow"))
    await asyncio.sleep(0)
    good = False
    assert await ask(b"/x") == (503, True)
    assert (await ask(b"/metrics"))[0] == 200
    let_go.set()
    assert await slow == (503, True)
    good = True
    let_go.clear()
    slow = asyncio.create_task(ask(b"/slow"))
    await asyncio.sleep(0)
    gate.close()
    assert await slow == (503, True)
    gate.open(application, lambda: True)
    gone = asyncio.create_task(ask(b"/slow"))
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
