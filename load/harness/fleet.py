"""The fleet under load: a running one, or one that is started for the scenario and stopped after it."""

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

#: The directory of this code.
HERE = Path(__file__).parents[2]

_READY_LIMIT_S = 90.0
_STOP_LIMIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Target:
    """A fleet under load.

    url: the address for clients.
    config: the configuration file for `skep status`, None if it is not available.
    code: the directory of the fleet's code.
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
        """Return the answer of `skep status --json`. It is empty without a configuration."""
        if self.config is None:
            return {"processes": [], "database": None}
        command = [*_SKEP, "status", "--json", "--config", str(self.config)]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=self.code, env=_environment(self.code))
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


_SKEP = (sys.executable, "-m", "deploy.command.main")


@contextlib.contextmanager
def own_fleet(code: Path = HERE) -> Iterator[Target]:
    """Run `skep up` in a new directory on free ports. Raises RuntimeError with the log if it does not start.

    code: the directory of the code, which may be another version.
    """
    data = Path(tempfile.mkdtemp(prefix="skep-load-"))
    data.chmod(0o755)  # PostgreSQL may run as another user
    client_port, federation_port = _free_ports(2)
    command = [*_SKEP, "up", "--data", str(data), "--client-port", str(client_port)]
    command += ["--federation-port", str(federation_port)]
    with (data / "skep-up.log").open("wb") as log:
        # In a session of its own: Ctrl-C reaches the scenario only, which then stops the fleet in order.
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
    """Yield a directory with the code of another commit. Raises CalledProcessError for an unknown commit."""
    with tempfile.TemporaryDirectory(prefix="skep-load-code-") as directory:
        archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, stdout=subprocess.PIPE).stdout
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            tar.extractall(directory, filter="data")
        yield Path(directory)


def _environment(code: Path) -> dict[str, str]:
    """Return an environment in which the code of this directory precedes the installed one."""
    return {**os.environ, "PYTHONPATH": str(code)}


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until `skep up` reports that all processes answer."""
    end = time.monotonic() + _READY_LIMIT_S
    while time.monotonic() < end and process.poll() is None:
        if "ready after" in log.read_text(errors="replace"):
            return
        time.sleep(0.2)
    raise RuntimeError(f"the fleet did not start:\n{log.read_text(errors='replace')[-3000:]}")
