"""The fleet under load: one that runs already, or one of its own, started for the scenario and ended after it."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

#: The code that this module belongs to.
HERE = Path(__file__).parents[1]

_READY_LIMIT_S = 90.0
_STOP_LIMIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Target:
    """url: where clients reach the fleet; config: the file that `skep status` needs, None where it is not at hand.

    code: the directory of the code that it runs.
    """

    url: str
    config: Path | None
    code: Path = HERE

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return parts.hostname, parts.port or 80

    def status(self) -> dict[str, Any]:
        """Return what `skep status --json` says; nobody and nothing where there is no configuration."""
        if self.config is None:
            return {"processes": [], "database": None}
        command = [*_SKEP, "status", "--json", "--config", str(self.config)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=self.code, env=_environment(self.code))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


_SKEP = (sys.executable, "-m", "deploy.command.main")


@contextlib.contextmanager
def own_fleet(code: Path = HERE) -> Iterator[Target]:
    """Run `skep up` on a fresh directory and free ports. Raises RuntimeError with the log when it doesn't start.

    code: the directory of the code to run, which may be another version than this one.
    """
    data = Path(tempfile.mkdtemp(prefix="skep-load-"))
    data.chmod(0o755)  # PostgreSQL may run as another user
    client_port, federation_port = _free_ports(2)
    command = [*_SKEP, "up", "--data", str(data), "--client-port", str(client_port)]
    command += ["--federation-port", str(federation_port)]
    with (data / "skep-up.log").open("wb") as log:
        # A session of its own: Ctrl-C reaches the scenario only, which then ends the fleet in order.
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=code, env=_environment(code)
        )
    try:
        target = Target(f"http://127.0.0.1:{client_port}", data / "run" / "skep.yaml", code)
        _wait_until_ready(process, data / "skep-up.log")
        yield target
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(_STOP_LIMIT_S)
        finally:
            process.kill()
            process.wait()
            shutil.rmtree(data, ignore_errors=True)


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """Lend a directory with the code of another commit. Raises CalledProcessError for one that there is not."""
    with tempfile.TemporaryDirectory(prefix="skep-load-code-") as directory:
        archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(directory, filter="data")
        yield Path(directory)


def _environment(code: Path) -> dict[str, str]:
    """The code of that directory goes before what is installed."""
    return {**os.environ, "PYTHONPATH": str(code)}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    """`skep up` says so itself, once all answers."""
    end = time.monotonic() + _READY_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        if "ready after" in log.read_text(errors="replace"):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the fleet did not start:\n{log.read_text(errors='replace')[-3000:]}")
