"""Shows warnings and errors of the children's log files on the terminal.

Children write their files themselves, and we read them: a pipe through us would break them if we died.
"""

import re
from pathlib import Path

#: The levels of our two log formats, and of PostgreSQL, Redis and haproxy. PostgreSQL logs an ERROR for each failed
#: statement of a client, so only its FATAL and PANIC count. haproxy also warns of servers that come up.
_NOTEWORTHY = re.compile(
    r'"level":"(WARNING|ERROR|CRITICAL)"'
    r"|^\S+ \S+ (WARNING|ERROR|CRITICAL) "
    r"|\b(FATAL|PANIC):  "
    r"|^\[ALERT\]"
    r"|^\[WARNING\].* (DOWN|no server available)"
)
#: Lines of these levels that are part of normal work, when a process drains, restarts or stops: the supervisor has a
#: line of its own then. A slot's backend (`rooms_7`) is often empty, and its pool's takes its requests.
_ROUTINE = re.compile(
    r"FATAL:  (connection to client lost|terminating connection due to|the database system is)"
    r"|\b(backend|proxy) '?[a-z]+_\d+'? has no server available"
    r"|\bis going DOWN for maintenance\b"
)
_MOST_AT_ONCE = 10
_LONGEST_LINE = 400
_MOST_BYTES_AT_ONCE = 1 << 20


class LogEcho:
    """The position in each log file, at first its end."""

    def __init__(self) -> None:
        self._offsets: dict[Path, int] = {}

    def follow(self, log: Path) -> None:
        self._offsets[log] = log.stat().st_size if log.exists() else 0

    def new_lines(self) -> list[str]:
        """Return the notable lines since the last call, a few for each file at most."""
        return [line for log in self._offsets for line in self._new_lines_of(log)]

    def _new_lines_of(self, log: Path) -> list[str]:
        try:
            size = log.stat().st_size
        except FileNotFoundError:
            return []
        offset = self._offsets[log]
        if size < offset:
            offset = 0  # it was rotated or emptied
        if size == offset:
            return []
        if size - offset > _MOST_BYTES_AT_ONCE:
            offset = size - _MOST_BYTES_AT_ONCE
        with log.open("rb") as file:
            file.seek(offset)
            block = file.read(size - offset)
        complete = block[: block.rfind(b"\n") + 1]  # the rest of a line is read at the next call
        self._offsets[log] = offset + len(complete)
        found = [
            line[:_LONGEST_LINE]
            for line in complete.decode("utf-8", "replace").splitlines()
            if _NOTEWORTHY.search(line) and not _ROUTINE.search(line)
        ]
        if len(found) > _MOST_AT_ONCE:
            found = [*found[:_MOST_AT_ONCE], f"({len(found) - _MOST_AT_ONCE} more in {log})"]
        return found
