"""The supervisor fences and restarts workers that end, and leaves no process behind."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.local.children import describe_exit, restart_delay_s
from deploy.local.identity import identity_of, start_ticks
from deploy.local.log_echo import LogEcho
from deploy.local.preload import ReactorImported
from tests.rigs.waiting import wait_until

ROOT = Path(__file__).parents[2]
_LIMIT_S = 30.0


class Supervised:
    """The running program `supervised.py`."""

    def __init__(self, directory: Path, *behaviours: str, stop_limit_s: float = 1.0) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.fleet.supervised", str(directory), str(stop_limit_s), *behaviours],
            cwd=ROOT,
            stdout=(directory / "out").open("w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.until(lambda: "started" in self.output())

    def output(self) -> str:
        return (self.directory / "out").read_text()

    def pids(self) -> dict[str, int]:
        try:
            raw: list[dict[str, Any]] = json.loads((self.directory / "records.json").read_text())
        except FileNotFoundError:
            return {}
        return {each["name"]: each["pid"] for each in raw}

    def fenced(self) -> list[str]:
        path = self.directory / "fenced"
        return path.read_text().split() if path.exists() else []

    def until(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, self.output)


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., Supervised]]:
    started: list[Supervised] = []

    def begin(*behaviours: str, stop_limit_s: float = 1.0) -> Supervised:
        started.append(Supervised(tmp_path, *behaviours, stop_limit_s=stop_limit_s))
        return started[-1]

    yield begin
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGINT)
            each.process.wait(_LIMIT_S)


def test_killed_worker_is_fenced_and_restarted(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("good", "good")
    before = fleet.pids()
    os.kill(before["good-1"], signal.SIGKILL)
    fleet.until(lambda: fleet.pids().get("good-1", before["good-1"]) != before["good-1"])
    assert fleet.fenced() == ["good-1"]
    assert fleet.pids()["good-2"] == before["good-2"]
    assert "good-1 was killed by SIGKILL" in fleet.output()


def test_drained_worker_stays_down_and_exited_worker_is_restarted(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("drained", "good")
    before = fleet.pids()
    for pid in (before["drained-1"], before["good-2"]):
        os.kill(pid, signal.SIGTERM)
    fleet.until(lambda: fleet.pids().get("good-2", before["good-2"]) != before["good-2"])
    fleet.until(lambda: "drained-1 was drained by an operator" in fleet.output())
    assert "drained-1" not in fleet.pids()
    assert fleet.fenced() == ["good-2"]


def test_one_signal_stops_every_worker_even_one_that_ignores_sigterm(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("good", "deaf")
    pids = fleet.pids()
    fleet.process.send_signal(signal.SIGINT)
    assert fleet.process.wait(_LIMIT_S) == 0
    assert "deaf-2 did not stop in time and is killed" in fleet.output()
    assert "good-1 has not" not in fleet.output()
    assert [start_ticks(pid) for pid in pids.values()] == [None] * len(pids)


def test_ctrl_c_reaches_the_parent_only(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("good")
    pids = fleet.pids()
    assert os.getpgid(pids["good-1"]) == pids["good-1"] != os.getpgid(fleet.process.pid)


def test_second_signal_stops_without_waiting(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("deaf", "deaf", stop_limit_s=600.0)
    fleet.process.send_signal(signal.SIGTERM)
    time.sleep(0.1)  # two signals at once would be one
    fleet.process.send_signal(signal.SIGTERM)
    assert fleet.process.wait(_LIMIT_S) == 0


def test_worker_that_cannot_start_is_restarted_with_growing_delays(supervise: Callable[..., Supervised]) -> None:
    fleet = supervise("broken")
    fleet.until(lambda: "starts again in 0.5 s" in fleet.output())
    assert "no chance" in fleet.output(), "the log's error is shown"
    assert "ended with code 3" in fleet.output()
    assert [restart_delay_s(n) for n in range(7)] == [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 10.0]


def test_reused_pid_has_another_identity(supervise: Callable[..., Supervised]) -> None:
    own = identity_of(os.getpid())
    assert own.is_alive()
    assert not type(own)(own.pid, own.start_ticks + 1).is_alive()


def test_exit_codes_are_described_in_words() -> None:
    assert describe_exit(-9) == "was killed by SIGKILL"
    assert describe_exit(-64 - 40) == "was killed by signal 104"


def test_warnings_and_errors_are_echoed_once_as_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    log.write_text("2026-11-21 03:00:00.000 ERROR   x [-] old: before we looked\n")
    echo = LogEcho()
    echo.follow(log)
    with log.open("a") as file:
        file.write("2026-11-21 03:00:00.000 INFO    x [-] a: fine\n")
        file.write("2026-11-21 03:00:00.000 WARNING x [-] a: look\n")
        file.write('{"time":"t","level":"ERROR","message":"json"}\n')
        file.write("2026-11-21 03:00:00.000 ERROR   x [-] a: ha")
        file.flush()
        assert [line.rpartition(" ")[2] for line in echo.new_lines()][:1] == ["look"]
        file.write("lf\n")
    assert [line.rpartition(" ")[2] for line in echo.new_lines()] == ["half"]
    assert echo.new_lines() == []
    with log.open("a") as file:
        file.write("2026-11-21 03:00:00.000 ERROR   x [-] a: again\n" * 50)
    assert len(echo.new_lines()) == 11


def test_lines_of_normal_work_are_not_shown(tmp_path: Path) -> None:
    """A clean drain, a clean stop and a restart of PostgreSQL show no warnings."""
    log = tmp_path / "a.log"
    echo = LogEcho()
    echo.follow(log)
    log.write_text(
        "2026-11-30 14:18:30.980 UTC [19824] FATAL:  connection to client lost\n"
        "2026-11-30 14:18:30.980 UTC [19824] FATAL:  terminating connection due to administrator command\n"
        "2026-11-30 14:18:30.980 UTC [19824] FATAL:  the database system is starting up\n"
        "[WARNING]  (30608) : Server rooms_2/event_persister-2 is going DOWN for maintenance. 0 active and 0 backup\n"
        "[ALERT]    (30608) : backend 'rooms_2' has no server available!\n"
        "[ALERT]    (30608) : backend 'pool_sync' has no server available!\n"
        "2026-11-30 14:18:30.980 UTC [19824] FATAL:  could not write to file: No space left on device\n"
    )
    shown = echo.new_lines()
    assert len(shown) == 2 and "pool_sync" in shown[0] and "No space left" in shown[1]


def test_preload_refuses_a_reactor_in_the_parent() -> None:
    code = "from deploy.local.preload import preload; preload(['orjson', 'twisted.internet.reactor', 'yaml'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ReactorImported.__name__ in done.stderr and "in the worker only" in done.stderr
