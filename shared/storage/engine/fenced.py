"""The fence: one function builds every statement that writes under a lease.

A process that lost its lease must not write. Each writing statement therefore locks its own lease row (KEY SHARE) and
takes its rows from that lock: no row, nothing written. A lease holds only on the timeline on which it was granted
(`lost_commits.py`). PostgreSQL does not run a SELECT part that nothing refers to, so each part must name the fence
itself. `fenced_statement` refuses parts that do not, and a test explains every statement that it built. This needs READ
COMMITTED, where the lock reads the row again after waiting.

A fenced write is one statement that commits by itself, and a lease has one of them under way at a time
(`replication/streams/fenced_writer.py`). Architecture page, section 3; evidence 1, 2, 24.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from shared.storage.engine.lost_commits import TIMELINE
from shared.storage.engine.statements import Parameters, Statement, resolve

_FENCE = f"SELECT 1 FROM leases WHERE lease = :lease AND NOT revoked AND timeline = {TIMELINE} FOR KEY SHARE"
#: The fence as it is in every fenced statement.
FENCE = f"fence AS ({_FENCE})".replace(":lease", "$1")
_FROM_FENCE = re.compile(r"\b(?:FROM|USING|JOIN)\s+fence\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FencedStatement(Statement[Parameters]):
    """A statement whose first parameter is the lease and whose answer is one row.

    The row's first column `fence` is 1 when the lease held and 0 when nothing was written. The other columns are those
    of `result`.

    name: for metrics and the EXPLAIN test.
    """

    name: str


ALL_STATEMENTS: dict[str, FencedStatement[Any]] = {}


def fenced_statement(
    name: str, record: type[Parameters], parts: Mapping[str, str], result: str = ""
) -> FencedStatement[Parameters]:
    """Build and register a fenced statement.

    record: declares the parameters (`engine/statements.py`). `:lease` is one of every statement.
    parts: name -> SELECT, INSERT, UPDATE or DELETE. Each one that writes takes its rows FROM (or USING) fence.
    result: further columns of the answer, such as "(SELECT array_agg(position) FROM ev) AS positions".
    Raises ValueError when a part writes without the fence, the name is taken, or the text and the record differ.
    """
    if name in ALL_STATEMENTS:
        raise ValueError(f"fenced statement {name!r} is declared twice")
    for part, text in parts.items():
        if _WRITES.search(text) and not _FROM_FENCE.search(text):
            raise ValueError(f"fenced statement {name!r}: part {part!r} writes without taking rows from the fence")
    ctes = ",\n".join(f"{part} AS ({text})" for part, text in {"fence": _FENCE, **parts}.items())
    columns = "(SELECT count(*) FROM fence) AS fence" + (f", {result}" if result else "")
    sql, values = resolve(record, f"WITH {ctes}\nSELECT {columns}", ("lease",))
    statement = FencedStatement(sql, values, name)
    ALL_STATEMENTS[name] = statement
    return statement


class FencedWrite(Protocol):
    """`FencedWriter.write`: run one fenced statement. Raises Fenced if the lease, or the answer, is lost."""

    def __call__(
        self, statement: FencedStatement[Parameters], record: Parameters, *, streams: Sequence[str] = ()
    ) -> Awaitable[asyncpg.Record]: ...
