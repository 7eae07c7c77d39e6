"""`skep up` in an empty directory: a first start that fails, one that succeeds, and the pages at the client port."""

import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import yaml

from deploy.local.identity import pick_port
from tests.rigs.directories import server_directory

ROOT = Path(__file__).parents[2]


def up(data: Path, client_port: int, federation_port: int, output: Path) -> "subprocess.Popen[bytes]":
    ports = ["--client-port", str(client_port), "--federation-port", str(federation_port)]
    command = [sys.executable, "-m", "deploy.command.main", "up", "--data", str(data), *ports]
    with output.open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )


def get(url: str) -> tuple[int, str, str]:
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.headers["Content-Type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["Content-Type"], error.read().decode()


def test_first_start_after_a_failed_one() -> None:
    with server_directory("first-start") as directory:
        check_first_start(directory / "data", directory / "up.log")


def check_first_start(data: Path, output: Path) -> None:
    client_port, federation_port = pick_port("127.0.0.1"), pick_port("127.0.0.1")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert up(data, client_port, taken.getsockname()[1], output).wait(60) == 1
    assert "FEDERATION_PORT=" in output.read_text() and not (data / "skep.yaml").exists()

    fleet = up(data, client_port, federation_port, output)
    try:
        end = time.monotonic() + 90
        while "Ctrl-C" not in output.read_text():
            assert fleet.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.1)
        written = yaml.safe_load((data / "skep.yaml").read_text())
        assert written["server_name"] == f"localhost:{federation_port}"
        assert (data / "skep.yaml").stat().st_mode & 0o777 == 0o600
        greeting = re.sub(r"\s+", " ", output.read_text())
        for words in ("Not there yet: federation", "needs a name and TLS", "Some clients cut it off"):
            assert words in greeting

        url = f"http://127.0.0.1:{client_port}"
        status, kind, page = get(url + "/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        assert "Matrix homeserver" in page and "Not there yet" in page and "TLS" in page
        assert get(url + "/health")[0] == 200 and get(url + "/health/live")[0] == 404
    finally:
        fleet.send_signal(signal.SIGINT)
        assert fleet.wait(20) == 0
    # A clean stop logs no warning.
    assert not re.search("ALERT|FATAL|ERROR|Traceback", output.read_text()), output.read_text()
