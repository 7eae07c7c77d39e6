"""A whole fleet as a user starts it: `skep up` in its own directory, with free ports.

    fleet         shared by the session: 2 persisters, 2 synchrotrons, 1 of each other; do not kill its processes
    start_fleet   makes a fleet for one test, which may kill and change it

When a test that uses a fleet fails, the ends of the fleet's logs are part of its report.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.command.inspection.status import fleet_status, status_json
from deploy.local.identity import pick_port
from deploy.local.servers.program import tail_of
from shared.config.generate import development_yaml, write_secrets
from shared.config.load import load_config
from tests.rigs.clusters import copy_cluster
from tests.rigs.directories import server_directory

ROOT = Path(__file__).parents[1]
_READY_LIMIT_S = 60.0


class RunningFleet:
    """A fleet started by `skep up`. settings: replaces values of the development configuration, by section."""

    def __init__(self, directory: Path, settings: Mapping[str, Mapping[str, Any]]) -> None:
        self.directory = directory
        client_port, federation_port = pick_port("127.0.0.1"), pick_port("127.0.0.1")
        config = yaml.safe_load(development_yaml(client_port, federation_port))
        config["user_directory"] = {"search_all_users": False}  # as in production
        _merge(config, settings)
        write_secrets(directory)
        (directory / "skep.yaml").write_text(yaml.safe_dump(config))
        self.config = directory / "run" / "skep.yaml"
        self.server_name: str = config["server_name"]
        self.client_url = f"http://127.0.0.1:{client_port}"
        self.federation_url = f"https://127.0.0.1:{federation_port}"
        self._others: list[subprocess.Popen[bytes]] = []
        self._up = self._skep("up", "--data", str(directory))

    def wait_until_ready(self) -> None:
        """Wait until `skep up` reports that the fleet answers. Fail with its logs otherwise."""
        end = time.monotonic() + _READY_LIMIT_S
        while " ready after " not in self._output():
            if self._up.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the fleet did not start:\n{self.logs()}")
            time.sleep(0.05)

    def status(self) -> dict[str, Any]:
        """Return the output of `skep status --json`, without the third of a second that the command takes."""
        with ThreadPoolExecutor(1) as thread:  # the caller may be a coroutine
            found = thread.submit(asyncio.run, fleet_status(load_config(self.config), self.config)).result(20)
        status: dict[str, Any] = json.loads(status_json(found))
        return status

    def processes(self) -> dict[str, dict[str, Any]]:
        """Return name -> pid and address of the processes of `skep up`. Cheaper than `status`."""
        raw = json.loads((self.directory / "run" / "fleet.json").read_text())
        return {each["name"]: each for each in raw["processes"]}

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a process, named for example "event_persister-1", "redis" or "haproxy"."""
        os.kill(self.processes()[name]["pid"], number)

    def add_worker(self, worker_type: str) -> "subprocess.Popen[bytes]":
        """Start another worker with `skep worker`. It ends with the fleet."""
        self._others.append(self._skep("worker", worker_type, "--config", str(self.config)))
        return self._others[-1]

    def add_main(self, name: str) -> "subprocess.Popen[bytes]":
        """Start another main process, a standby. It ends with the fleet."""
        self._others.append(self._skep("main", "--name", name, "--config", str(self.config)))
        return self._others[-1]

    def skep(self, *words: str) -> "subprocess.CompletedProcess[str]":
        """Run a `skep` command on this fleet to its end."""
        words = (sys.executable, "-m", "deploy.command.main", *words, "--config", str(self.config))
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    def start_again(self) -> None:
        """Start a stopped fleet with the same data and ports, and wait until it answers."""
        (self.directory / "up.log").rename(self.directory / "up-before.log")
        self._up = self._skep("up", "--data", str(self.directory))
        self.wait_until_ready()

    def stop(self) -> float:
        """Stop the fleet as Ctrl-C does; return the seconds that it took."""
        began = time.monotonic()
        for process in (*self._others, self._up):
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
        for process in (*self._others, self._up):
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        return time.monotonic() - began

    def logs(self) -> str:
        """Return the ends of all logs, for the report of a failed test."""
        files = [self.directory / "up.log", *sorted((self.directory / "logs").glob("*.log"))]
        return "\n".join(f"--- {file.name}\n{tail_of(file, 25)}" for file in files if file.exists())

    def _output(self) -> str:
        return (self.directory / "up.log").read_text(errors="replace")

    def _skep(self, *words: str) -> "subprocess.Popen[bytes]":
        name = "up.log" if words[0] == "up" else f"extra-{len(self._others)}.log"
        with (self.directory / name).open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "deploy.command.main", *words],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def _merge(config: dict[str, Any], settings: Mapping[str, Any]) -> None:
    """Replace values of a configuration, at any depth."""
    for name, value in settings.items():
        if isinstance(value, Mapping) and isinstance(config.get(name), dict):
            _merge(config[name], value)
        else:
            config[name] = value


StartFleet = Callable[..., RunningFleet]


def run_fleet(settings: Mapping[str, Mapping[str, Any]], *, makes_database: bool = False) -> Generator[RunningFleet]:
    """Body of a fixture: a fleet in its own directory, stopped and removed afterwards.

    makes_database: True if `skep up` makes the cluster and migrates the database instead of finding both.
    """
    with server_directory("fleet") as directory:
        if not makes_database and "database" not in settings:
            copy_cluster(directory)
        running = RunningFleet(directory, settings)
        try:
            running.wait_until_ready()
            yield running
        finally:
            running.stop()


_shared: list[RunningFleet] = []


def run_shared_fleet(settings: Mapping[str, Mapping[str, Any]]) -> Generator[RunningFleet]:
    """Body of a session fixture: a fleet for a group of consecutive tests."""
    for running in run_fleet(settings):
        _shared.append(running)
        yield running


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Stop the fleets of the session after the last test of their group. An idle fleet takes 9 % of a core."""
    yield
    group = item.get_closest_marker("xdist_group")
    if nextitem is None or nextitem.get_closest_marker("xdist_group") != group:
        while _shared:
            _shared.pop().stop()


@pytest.fixture(scope="session")
def fleet() -> Iterator[RunningFleet]:
    yield from run_shared_fleet({"fleet": {"event_persister": 2, "synchrotron": 2}})


@pytest.fixture
def start_fleet() -> Iterator[StartFleet]:
    """Return a function whose keyword arguments are sections: start_fleet(fleet={"synchrotron": 2})."""
    running: list[Generator[RunningFleet]] = []
    started: list[RunningFleet] = []

    def start(*, makes_database: bool = False, **settings: Mapping[str, Any]) -> RunningFleet:
        running.append(run_fleet(settings, makes_database=makes_database))
        started.append(next(running[-1]))
        return started[-1]

    start.fleets = started  # type: ignore[attr-defined]
    yield start
    for each in running:
        each.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    report = yield
    if report.failed and call.when == "call":
        arguments: dict[str, Any] = getattr(item, "funcargs", {})
        values = (getattr(value, "fleet", value) for value in arguments.values())
        fleets = [value for value in values if isinstance(value, RunningFleet)]
        fleets.extend(getattr(arguments.get("start_fleet"), "fleets", []))
        for each in fleets:
            report.sections.append((f"logs of the fleet in {each.directory}", each.logs()))
    return report
