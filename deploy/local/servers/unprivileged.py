"""Run PostgreSQL as another user if we are root, since it refuses to run as root.

That user must be able to reach the program and the data. Below a directory such as /root they cannot, so both are kept
below /var/lib/skep (or /var/tmp/skep) then.
"""

import os
import pwd
import secrets
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from shared.core.errors import SkepError


class CannotRunHere(SkepError):
    """The fleet cannot start on this machine. The message says what to change."""


@dataclass(frozen=True, slots=True)
class User:
    name: str
    uid: int
    gid: int


def user_for_postgres(cluster: Path) -> User | None:
    """Return the user to run PostgreSQL as; None for the present one, if that is not root.

    cluster: its data directory. PostgreSQL accepts only the owner of an existing one.
    Raises CannotRunHere if the cluster belongs to another user, or if root finds no other user.
    """
    owner = cluster.stat().st_uid if cluster.exists() else None
    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            name = _name_of(owner)
            raise CannotRunHere(
                f"{cluster} belongs to {name}: another user (or root) ran `skep up` there before. Run it as that user"
                " again, or use another --data directory."
            )
        return None
    if owner:
        return _user(pwd.getpwuid(owner))
    for name in ("postgres", "nobody"):
        try:
            return _user(pwd.getpwnam(name))
        except KeyError:
            continue
    raise CannotRunHere(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody`."
        " Run `skep up` as an ordinary user, or name a PostgreSQL under `database` in the configuration."
    )


def can_reach(user: User | None, path: Path, mode: int) -> bool:
    """Tell whether the user may access `path`, every directory on the way included.

    mode: as for os.access.
    """
    if user is None:
        return os.access(path, mode)
    child = os.fork()
    if child == 0:
        allowed = False
        try:
            os.setgroups([])
            os.setgid(user.gid)
            os.setuid(user.uid)
            allowed = os.access(path, mode)
        finally:
            os._exit(0 if allowed else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def give_to(user: User | None, directory: Path) -> None:
    """Make a directory, or change an existing one, so that only the user can enter it (mode 0700)."""
    directory.mkdir(parents=True, exist_ok=True)
    if user is not None:
        os.chown(directory, user.uid, user.gid)
    directory.chmod(0o700)


def common_directory() -> Path:
    """Return a directory of root that everybody can traverse: /var/lib/skep, else /var/tmp/skep.

    Raises CannotRunHere if neither can be made, or both belong to others.
    """
    for path in (Path("/var/lib/skep"), Path("/var/tmp/skep")):  # noqa: S108 - ownership is checked below
        try:
            path.mkdir(mode=0o755, parents=True, exist_ok=True)
            info = path.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != 0 or info.st_mode & 0o022:
                continue
            path.chmod(0o755)
        except OSError:
            continue
        return path
    raise CannotRunHere("Neither /var/lib/skep nor /var/tmp/skep can be used by root; make one (mode 0755).")


def reachable_programs(user: User | None, programs: Path, version: str) -> Path:
    """Return `programs`, or a copy of it from which the user can run the programs.

    programs: an installation with bin, lib and share.
    version: the name of the copy, so that an upgrade makes a new one.
    """
    if can_reach(user, programs / "bin" / "postgres", os.X_OK) and can_reach(user, programs / "share", os.R_OK):
        return programs
    # The programs find their libraries by a relative path, in the wheel's second directory.
    package = programs.parent
    libraries = package.with_name(f"{package.name}.libs")
    copy = common_directory() / f"postgresql-{version}"
    if not copy.exists():
        # Made under another name first: two fleets may start at the same time, and one may be killed before it is done.
        fresh = copy.with_name(f"{copy.name}.{secrets.token_hex(4)}")
        shutil.copytree(programs, fresh / package.name / programs.name, symlinks=True)
        if libraries.is_dir():
            shutil.copytree(libraries, fresh / libraries.name, symlinks=True)
        for path in (fresh, *fresh.rglob("*")):
            if not path.is_symlink():
                executable = path.is_dir() or path.stat().st_mode & 0o100
                path.chmod(0o755 if executable else 0o644)
        try:
            fresh.rename(copy)
        except OSError:
            shutil.rmtree(fresh)
    return copy / package.name / programs.name


def _user(entry: pwd.struct_passwd) -> User:
    return User(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _name_of(uid: int | None) -> str:
    try:
        return pwd.getpwuid(uid or 0).pw_name
    except KeyError:
        return f"user {uid}"
