"""The fence: one function builds every statement that writes under a lease.

A process that lost its lease must not write. Each writing statement therefore locks its own lease row (KEY SHARE) and
takes its rows from that lock: no row, nothing written. On another timeline than its own a lease counts for nothing
(`lost_commits.py`). PostgreSQL does not run a SELECT part that nothing refers to, so each part must name the fence
itself; `fenced_statement` refuses parts that do not, and a test explains every statement it ever built. READ
COMMITTED only: there the lock looks at the row again after waiting.

A fenced write is one statement that commits by itself, and a lease has one of them under way at a time
(`replication/streams/fenced_writer.py`). Architecture page, section 3; evidence 1, 2, 24.
"""

import re
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import asyncpg

from shared.storage.engine.lost_commits import TIMELINE

FENCE = f"fence AS (SELECT 1 FROM leases WHERE lease = $1 AND NOT revoked AND timeline = {TIMELINE} FOR KEY SHARE)"
_FROM_FENCE = re.compile(r"\b(?:FROM|USING|JOIN)\s+fence\b", re.IGNORECASE)
_WRITES = re.compile(r"\b(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class FencedStatement:
    """A statement whose first parameter is the lease and whose answer is one row.

    name: for metrics and the EXPLAIN test; sql: the text; the row's first column `fence` is 1 when the lease held and
    0 when nothing was written; the other columns are those of `result`.
    """

    name: str
    sql: str


ALL_STATEMENTS: dict[str, FencedStatement] = {}


def fenced_statement(name: str, parts: Mapping[str, str], result: str = "") -> FencedStatement:
    """Build and register a fenced statement.

    parts: name -> data-modifying or reading SELECT/INSERT/UPDATE/DELETE text; each one that writes takes its rows
        FROM (or USING) fence. $1 is the lease; the caller's parameters start at $2.
    result: further columns of the answer, such as "(SELECT array_agg(position) FROM ev) AS positions".
    Raises ValueError when a part writes without the fence, or the name is taken.
    """
    if name in ALL_STATEMENTS:
        raise ValueError(f"fenced statement {name!r} is declared twice")
    for part, text in parts.items():
        if _WRITES.search(text) and not _FROM_FENCE.search(text):
            raise ValueError(f"fenced statement {name!r}: part {part!r} writes without taking rows from the fence")
    ctes = ",\n".join([FENCE, *(f"{part} AS ({text})" for part, text in parts.items())])
    columns = "(SELECT count(*) FROM fence) AS fence" + (f", {result}" if result else "")
    statement = FencedStatement(name, f"WITH {ctes}\nSELECT {columns}")
    ALL_STATEMENTS[name] = statement
    return statement


class FencedWrite(Protocol):
    """`FencedWriter.write`: runs one fenced statement. Raises Fenced when the lease, or the answer, was lost."""

    def __call__(
        self, statement: FencedStatement, *args: Any, streams: Sequence[str] = ()
    ) -> Awaitable[asyncpg.Record]: ...
