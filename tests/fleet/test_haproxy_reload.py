"""A reload of haproxy: the new process starts with the state of the old one, and no request fails."""

import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.command.installation.haproxy_config import run_haproxy_config
from shared.core.slots import slot_of
from tests.fleet.haproxy_rig import Client, Rig, haproxy_rig
from tests.fleet.haproxy_sample import ENDPOINTS, POOLS

_WORKERS = ("event_persister1", "event_persister2", "client_api1", "synchrotron1", "synchrotron2", "federation_reader1")


@pytest.fixture
def rig() -> Iterator[Rig]:
    with tempfile.TemporaryDirectory(prefix="skep") as directory, haproxy_rig(Path(directory), ENDPOINTS, POOLS) as rig:
        for name in _WORKERS:
            rig.add(name[:-1], name)
        rig.deal("rooms", ["event_persister1", "event_persister2"])
        rig.deal("users", ["client_api1"])
        assert rig.align() == []
        yield rig


def test_reload_under_traffic_fails_no_request(rig: Rig) -> None:
    """Architecture page, section 9: "haproxy reloaded: none". No main process corrects haproxy here."""
    answers: Counter[object] = Counter()
    over = threading.Event()

    def ask(number: int, fresh: bool) -> None:
        client = Client(rig.client.address[1])
        while not over.is_set():
            room = f"!r{number}:hive.example"
            path = f"/_matrix/client/v3/rooms/%21r{number}%3Ahive.example/send/m.room.message/{number}".encode()
            number += 1
            try:
                answer = client.ask("PUT", path)
            except OSError as error:
                answers[type(error).__name__, "fresh" if fresh else "kept"] += 1
                client.close()
                continue
            owner = rig.owners["rooms"][slot_of(room)]
            answers[answer.status, answer.body.get("worker") == owner] += 1
            if fresh:
                client.close()
        client.close()

    threads = [threading.Thread(target=ask, args=(1000 * n, n % 2 == 0), daemon=True) for n in range(6)]
    for thread in threads:
        thread.start()
    try:
        pids = {rig.pid()}
        for _ in range(3):
            time.sleep(0.3)
            assert run_haproxy_config(rig.inputs, ENDPOINTS, POOLS, rig.directory) == 0
            before = rig.pid()
            rig.process.send_signal(signal.SIGUSR2)
            deadline = time.monotonic() + 10
            while (pid := rig.pid()) == before:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            pids.add(pid)
        time.sleep(0.3)
    finally:
        over.set()
        for thread in threads:
            thread.join(10)
    assert set(answers) == {(200, True)}, answers
    assert answers[200, True] > 500 and len(pids) == 4
    # Main can change the entries that the process started with, like those that main adds.
    rig.echo("synchrotron2").kill()
    del rig.workers["synchrotron2"]
    rig.add("event_persister", "event_persister3")
    rig.deal("rooms", ["event_persister1", "event_persister3"])
    deadline = time.monotonic() + 5
    while rig.align():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert {server.name for server in rig.state().servers} & {"synchrotron2", "event_persister3"} == {
        "event_persister3"
    }
