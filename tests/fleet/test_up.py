"""`skep up`: its messages, the files and processes that it leaves, and the starts that it refuses."""

import http.client
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from deploy.command.main import COMMANDS, main
from deploy.local.identity import start_ticks
from shared.config.load import load_config
from tests.fix_fleet import ROOT, RunningFleet, StartFleet


def get(url: str, path: str) -> tuple[int, Any]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def skep(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "deploy.command.main", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_fleet_stops_within_ten_seconds_and_restarts_with_its_data(start_fleet: StartFleet) -> None:
    fleet = start_fleet(makes_database=True)
    words = ("user", "register", "alice", "--password", "wonderland", "--config", str(fleet.config))
    assert skep(*words).stdout == f"registered @alice:{fleet.server_name}\n"
    pids = [each["pid"] for each in fleet.processes().values()]
    assert fleet.stop() < 10
    assert [pid for pid in pids if start_ticks(pid) is not None] == []
    assert not (fleet.directory / "run" / "fleet.json").exists()

    fleet.start_again()
    assert "M_USER_IN_USE" in skep(*words).stderr or "refused" in skep(*words).stderr


def test_killed_processes_are_restarted(start_fleet: StartFleet) -> None:
    fleet = start_fleet()
    before = fleet.processes()
    for name in ("synchrotron-1", "haproxy", "redis"):
        fleet.kill(name)
    end = time.monotonic() + 10
    while any(fleet.processes().get(name) == before[name] for name in before if name in ("haproxy", "redis")):
        assert time.monotonic() < end, fleet.logs()
        time.sleep(0.1)
    while get_or_none(fleet.client_url, "/_matrix/client/versions") != 200:
        assert time.monotonic() < end, fleet.logs()
        time.sleep(0.1)
    assert fleet.processes()["event_persister-1"] == before["event_persister-1"]


def get_or_none(url: str, path: str) -> int | None:
    try:
        return get(url, path)[0]
    except OSError:
        return None


def test_status_names_every_process(fleet: RunningFleet) -> None:
    processes = fleet.status()["processes"]
    types = [each["type"] for each in processes]
    assert types.count("event_persister") == types.count("synchrotron") == 2
    assert {"main", "client_api", "postgres", "redis", "haproxy"} <= set(types)
    for each in processes:
        assert {"name", "type", "pid", "host", "address", "ready"} <= set(each) and each["ready"], each


def test_second_fleet_on_the_same_data_is_refused(fleet: RunningFleet) -> None:
    done = skep("up", "--data", str(fleet.directory))
    assert done.returncode == 1
    assert "already running" in done.stderr and fleet.client_url in done.stderr


def test_taken_port_is_reported_before_anything_starts(fleet: RunningFleet, tmp_path: Path) -> None:
    port = urlsplit(fleet.client_url).port
    done = skep("up", "--data", str(tmp_path / "other"), "--client-port", str(port))
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 cannot be used" in done.stderr and "CLIENT_PORT=" in done.stderr
    assert not (tmp_path / "other" / "postgres").exists()


def test_effective_configuration_is_private_and_loads(fleet: RunningFleet) -> None:
    assert fleet.config.stat().st_mode & 0o077 == 0
    assert load_config(fleet.config, {}).server_name == fleet.server_name


def test_processes_listen_on_loopback_only(fleet: RunningFleet) -> None:
    pids = {each["pid"] for each in fleet.processes().values()}
    inodes = {
        os.readlink(descriptor)[8:-1]
        for pid in pids
        for descriptor in Path(f"/proc/{pid}/fd").iterdir()
        if descriptor.is_symlink() and os.readlink(descriptor).startswith("socket:")
    }
    listening = [
        fields[1]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        for fields in (line.split() for line in Path(table).read_text().splitlines()[1:])
        if fields[3] == "0A" and fields[9] in inodes
    ]
    assert listening
    assert [each for each in listening if not each.startswith("0100007F:")] == []


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([command.name, "--help"])
    assert caught.value.code == 0
    assert f"usage: skep {command.name}" in capsys.readouterr().out


def test_errors_say_what_to_do(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SKEP_CONFIG", raising=False)
    assert main(["status"]) == 1
    assert "--config FILE" in capsys.readouterr().err
    assert main(["config", "check", "nowhere.yaml"]) == 1
    assert "nowhere.yaml" in capsys.readouterr().err


def test_generated_configuration_passes_config_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    directory = tmp_path / "etc"
    assert main(["config", "generate", "--server-name", "example.net", "--directory", str(directory)]) == 0
    (directory / "secrets" / "database_password").write_text("pw")
    assert main(["config", "check", str(directory / "skep.yaml")]) == 0
    assert "example.net" in capsys.readouterr().out
    assert main(["config", "generate", "--directory", str(directory)]) == 1
    assert main(["config", "schema"]) == 0
    capsys.readouterr()


def test_endpoints_as_json_lists_every_path(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["endpoints", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert any(row["path"] == "/_matrix/client/v3/sync" for row in rows)
