"""Shows warnings and errors of the children's log files on the terminal.

Children write their files themselves and we read along: a pipe through us would break them if we died.
"""

import re
from pathlib import Path

#: Level words where our two log formats and PostgreSQL's, Redis' and haproxy's have them. What a client did
# wrong
#: is an ERROR to PostgreSQL, so only its FATAL and PANIC count; haproxy also warns of servers that come up.
_NOTEWORTHY = re.compile(
    r'"level":"(WARNING|ERROR|CRITICAL)"'
    r"|^\S+ \S+ (WARNING|ERROR|CRITICAL) "
    r"|\b(FATAL|PANIC):  "
    r"|^\[ALERT\]"
    r"|^\[WARNING\].* (DOWN|no server available)"
)
_MOST_AT_ONCE = 10
_LONGEST_LINE = 400
_MOST_BYTES_AT_ONCE = 1 << 20


class LogEcho:
    """Remembers how far each file was read; begins at its present end."""

    def __init__(self) -> None:
        self._offsets: dict[Path, int] = {}

    def follow(self, log: Path) -> None:
        self._offsets[log] = log.stat().st_size if log.exists() else 0

    def new_lines(self) -> list[str]:
        """Return what is noteworthy since the last call, a few lines for each file at most."""
        return [line for log in self._offsets for line in self._new_lines_of(log)]

    def _new_lines_of(self, log: Path) -> list[str]:
        try:
            size = log.stat().st_size
        except FileNotFoundError:
            return []
        offset = self._offsets[log]
        if size < offset:
            offset = 0  # somebody rotated or emptied it
        if size == offset:
            return []
        if size - offset > _MOST_BYTES_AT_ONCE:
            offset = size - _MOST_BYTES_AT_ONCE
        with log.open("rb") as file:
            file.seek(offset)
            block = file.read(size - offset)
        complete = block[: block.rfind(b"\n") + 1]  # the rest of a line comes with the next look
        self._offsets[log] = offset + len(complete)
        found = [
            line[:_LONGEST_LINE]
            for line in complete.decode("utf-8", "replace").splitlines()
            if _NOTEWORTHY.search(line)
        ]
        if len(found) > _MOST_AT_ONCE:
            found = [*found[:_MOST_AT_ONCE], f"({len(found) - _MOST_AT_ONCE} more in {log})"]
        return found
