"""The directory of a fleet, `--data DIR`, and its lock: one fleet at a time uses it.

skep.yaml secrets/ tls/    configuration (skep.yaml only if no --config is given)
postgres/                  the embedded cluster, or a link to it if we are root
logs/                      one file for each process
run/                       of the running fleet: fleet.json, skep.yaml with the effective settings, sockets
"""

import fcntl
import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.identity import Identity
from deploy.local.servers.unprivileged import CannotRunHere

#: The path of a unix socket has at most 107 bytes. haproxy's is the longest, with a suffix while it binds.
_LONGEST_SOCKET_DIRECTORY = 107 - len("/haproxy.sock.1234567.tmp")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """A process of the running fleet, as in fleet.json and `skep status`."""

    name: str
    type: str
    pid: int
    start_ticks: int
    host: str
    address: str
    log: str

    @property
    def identity(self) -> Identity:
        return Identity(self.pid, self.start_ticks)


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRecord:
    """The content of fleet.json.

    config: the configuration file for further workers.
    database: a DSN without password; "" if the database is embedded.
    release: a hash of the code and configuration that its processes run (`adoption.py`).
    servers: a hash of the database and Redis that they use.
    """

    parent_pid: int
    config: str
    client_url: str
    federation_url: str
    database: str
    processes: tuple[ProcessRecord, ...] = field(default=())
    release: str = ""
    servers: str = ""


class DataDirectory:
    """The directory of one fleet. The constructor makes the folders, and locks and reads nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        self.run = self.path / "run"
        self.logs = self.path / "logs"
        self.tls = self.path / "tls"
        self.fleet_file = self.run / "fleet.json"
        self.effective_config = self.run / "skep.yaml"
        for folder in (self.path, self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)

    def log_of(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def lock(self) -> int:
        """Lock the directory until this process ends; return the file descriptor that holds the lock.

        A forked child must close the descriptor. Raises CannotRunHere if another `skep up` holds the lock.
        """
        descriptor = os.open(self.run / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            record = self.read_fleet()
            where = f" (pid {record.parent_pid}, clients at {record.client_url})" if record else ""
            raise CannotRunHere(
                f"A fleet is already running on {self.path}{where}. Stop it first, or use another --data directory"
                " and other ports."
            ) from None
        return descriptor

    def read_fleet(self) -> FleetRecord | None:
        """Return the record of the present or last fleet; None if there was none."""
        return read_fleet_file(self.fleet_file)

    def write_fleet(self, record: FleetRecord) -> None:
        """Replace fleet.json. A reader sees the old file or the new one, never a part."""
        self.write_private(self.fleet_file, json.dumps(asdict(record), indent=1) + "\n")

    def write_private(self, path: Path, text: str) -> None:
        """Replace a file as a whole. Only its owner can read it."""
        descriptor, fresh = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(fresh).replace(path)

    def socket_directory(self) -> Path:
        """Return a directory whose path suits unix sockets: `run`, else one below /tmp.

        Long paths do not suit, nor do characters with a meaning in a DSN or in haproxy's configuration.
        The link run/sockets leads to a directory below /tmp.
        """
        link = self.run / "sockets"
        plain = re.fullmatch(r"[A-Za-z0-9/._-]+", str(self.run)) is not None
        if plain and len(str(self.run)) <= _LONGEST_SOCKET_DIRECTORY:
            return self.run
        if not (link.is_dir() and link.stat().st_uid == os.geteuid()):
            link.unlink(missing_ok=True)
            made = Path(tempfile.mkdtemp(prefix="skep-"))
            made.chmod(0o711)  # PostgreSQL may run as another user, and has its own directory in it
            link.symlink_to(made)
        return link.resolve()


def read_fleet_file(path: Path) -> FleetRecord | None:
    """Return the content of a fleet.json; None if there is none."""
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return None
    processes = tuple(ProcessRecord(**each) for each in raw.pop("processes"))
    return FleetRecord(**raw, processes=processes)


def read_fleet_beside(config: Path) -> FleetRecord | None:
    """Return the record of the fleet whose effective configuration this is; None for any other file."""
    return read_fleet_file(config.with_name("fleet.json"))


def leftovers(processes: Sequence[ProcessRecord]) -> list[ProcessRecord]:
    """Return those processes of an earlier fleet that still run."""
    return [each for each in processes if each.identity.is_alive()]
